"""Shards: tar files with the audio and the manifest line of each utterance.

The layout is WebDataset's: `000000042.flac` is followed by `000000042.json`. Nothing is unpacked.
The headers are read once and the audio in place, so the shards may be on a mounted store.
"""

import io
import json
import math
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import soundfile

from speechkit.data.audio import audio_duration_s, read_samples, sample_rate_of
from speechkit.data.manifest import Utterance, parse_row, row_of
from speechkit.errors import AudioError, ManifestError
from speechkit.io.files import atomic_folder
from speechkit.io.untrusted import Limited
from speechkit.limits import MAX_JSON_BYTES, MAX_MEMBER_BYTES

COPIED = (".flac", ".opus", ".ogg", ".mp3")
"""Formats that are copied into a shard unchanged; others and parts of files become 16-bit FLAC."""


@dataclass(frozen=True, kw_only=True)
class ShardUtterance(Utterance):
    """An utterance in a shard; `audio` is SHARD.tar/NAME, a file of `size_bytes` in it."""

    start_byte: int
    size_bytes: int

    @property
    def shard(self) -> Path:
        """The tar file that holds it."""
        return self.audio.parent

    def read_bytes(self) -> bytes:
        """The bytes of its file; raises AudioError where the shard is missing or cut short."""
        try:
            with self.shard.open("rb") as file:
                file.seek(self.start_byte)
                found = file.read(self.size_bytes)
        except OSError as error:
            raise AudioError(f"cannot open {self.shard}: {error.strerror}") from error
        if len(found) < self.size_bytes:
            raise AudioError("it is cut short; copy the shard again")
        return found


def are_shards(path: Path) -> bool:
    """True for a path of shards: a folder, or a pattern such as `shards/train-*.tar`."""
    return path.is_dir() or path.suffix == ".tar"


def write_shards(utterances: Sequence[Utterance], out: Path, hours_per_shard: float) -> list[Path]:
    """Writes utterances in a random order to `OUT/shard-00000.tar` and so on, atomically.

    All shards have about the same number of utterances, and about `hours_per_shard` hours at most.
    """
    if not hours_per_shard > 0:
        raise ManifestError(f"hours_per_shard={hours_per_shard:g}: give a number above 0")
    if out.exists():
        raise ManifestError(f"{out} exists; give a new folder")
    rows = random.Random(0).sample(utterances, len(utterances))
    count = math.ceil(sum(u.duration_s for u in rows) / 3600 / hours_per_shard)
    count = min(max(count, 1), len(rows))
    with atomic_folder(out) as part:
        for number in range(count):
            with tarfile.open(part / f"shard-{number:05}.tar", "w") as tar:
                for index in range(number, len(rows), count):
                    _add_utterance(tar, f"{index:09}", rows[index])
    return sorted(out.iterdir())


def read_shards(path: Path) -> list[ShardUtterance]:
    """The utterances of shards at a path for which `are_shards` is true."""
    shards = sorted(path.glob("*.tar") if path.is_dir() else path.parent.glob(path.name))
    if not shards:
        raise ManifestError(f"{path} names no shard; give a folder of .tar files or a pattern")
    return [utterance for shard in shards for utterance in _read_shard(shard)]


def windows(utterances: Sequence[Utterance], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices in the order in which an epoch reads them, `size` at a time.

    Shards are read one after the other, in an order drawn from seed and epoch, so that a window
    covers few shards. Utterances outside shards are placed between them at random. Without shards
    there is one window, in the manifest's order.
    """
    if not any(isinstance(u, ShardUtterance) for u in utterances):
        return [list(range(len(utterances)))]
    groups: dict[object, list[int]] = {}
    for index, utterance in enumerate(utterances):
        group = utterance.shard if isinstance(utterance, ShardUtterance) else index
        groups.setdefault(group, []).append(index)
    shuffled = list(groups.values())
    random.Random(f"{seed}/{epoch}/shards").shuffle(shuffled)
    order = [index for group in shuffled for index in group]
    return [order[start : start + size] for start in range(0, len(order), size)]


def _add_utterance(tar: tarfile.TarFile, key: str, utterance: Utterance) -> None:
    sound, suffix = _file_of(utterance)
    name = key + suffix
    row = row_of(replace(utterance, audio=Path("/", name), offset_s=0.0), Path("/"))
    for member, content in ((name, sound), (f"{key}.json", json.dumps(row).encode())):
        header = tarfile.TarInfo(member)
        header.size = len(content)
        tar.addfile(header, io.BytesIO(content))


def _file_of(utterance: Utterance) -> tuple[bytes, str]:
    """The bytes and suffix of a file with exactly this utterance."""
    path = utterance.audio
    whole = not utterance.offset_s and audio_duration_s(path) < utterance.duration_s + 1
    if whole and path.suffix in COPIED:
        return path.read_bytes(), path.suffix
    rate = sample_rate_of(path)
    x = read_samples(
        path, target_rate=rate, offset_s=utterance.offset_s, duration_s=utterance.duration_s
    )
    # the inverse of reading 16 bits, unlike soundfile's own conversion
    whole_numbers = (x * 32768).round().clip(-32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, whole_numbers, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue(), ".flac"


def _read_shard(shard: Path) -> list[ShardUtterance]:
    places: dict[str, tuple[int, int]] = {}
    lines: dict[str, str] = {}
    try:
        with (
            shard.open("rb") as file,
            tarfile.open(fileobj=cast(BinaryIO, Limited(file, MAX_JSON_BYTES)), mode="r:") as tar,
        ):
            for member in tar:
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise ManifestError(
                        f"{shard}/{member.name} is a link or a device; a shard holds plain files"
                    )
                if member.name.endswith(".json"):
                    line = tar.extractfile(member)
                    lines[member.name] = line.read().decode() if line else ""
                elif member.size > MAX_MEMBER_BYTES:
                    raise tarfile.ReadError(
                        f"{member.name} has more than {MAX_MEMBER_BYTES:,} bytes"
                    )
                else:
                    places[member.name] = member.offset_data, member.size
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise ManifestError(f"{shard} cannot be read: {error}; copy it again") from error
    warned: set[str] = set()
    return [_placed(shard, name, line, places, warned) for name, line in lines.items()]


def _placed(
    shard: Path, name: str, line: str, places: dict[str, tuple[int, int]], warned: set[str]
) -> ShardUtterance:
    utterance = parse_row(line, shard.absolute(), False, f"{shard}/{name}", warned)
    if utterance.audio.name not in places:
        raise ManifestError(f"{shard}/{name}: no file {utterance.audio.name!r} in the shard")
    start, size = places[utterance.audio.name]
    return ShardUtterance(**vars(utterance), start_byte=start, size_bytes=size)
