"""Shards: what went in comes out bit by bit, in windows, and faults are named."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechkit.data import (
    ShardUtterance,
    Utterance,
    UtteranceDataset,
    batches,
    read_manifest,
    read_shards,
    share,
    windows,
    write_shards,
)
from speechkit.errors import AudioError, ManifestError, SpeechkitError
from speechkit.train import Data, Run, fit

HOUR_S = 3600


def number(utterance: Utterance) -> torch.Tensor:
    return torch.tensor(int((utterance.text or "")[1:]))


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Files of several formats, and parts of one file."""
    chance = np.random.default_rng(0)
    rows = []
    for index, suffix in enumerate(["wav", "flac", "ogg", "mp3"] * 2):
        path = tmp_path / f"{index}.{suffix}"
        soundfile.write(path, chance.uniform(-0.3, 0.3, 8000 + 400 * index), 8000)
        rows.append(Utterance(audio=path, duration_s=1 + 0.05 * index, text=f"n{index}"))
    long = tmp_path / "long.wav"
    soundfile.write(long, chance.uniform(-0.3, 0.3, 40000), 8000, subtype="PCM_16")
    rows += [
        Utterance(
            audio=long,
            duration_s=0.5,
            offset_s=0.5 * k,
            text=f"n{8 + k}",
            segments=((0.1, 0.2),),
            speaker="a",
        )
        for k in range(3)
    ]
    return rows


def test_what_went_in_comes_out(utterances: list[Utterance], tmp_path: Path) -> None:
    write_shards(utterances, tmp_path / "shards", 3 / HOUR_S)
    back = sorted(read_shards(tmp_path / "shards"), key=lambda u: int((u.text or "")[1:]))
    assert len(back) == len(utterances)
    plain, sharded = (UtteranceDataset(rows, number) for rows in (utterances, back))
    for index, (before, after) in enumerate(zip(utterances, back, strict=True)):
        kept = replace(before, audio=Path("/"), offset_s=0.0, where=after.where)
        assert {**vars(kept), "audio": after.audio} == {
            name: value for name, value in vars(after).items() if name in vars(kept)
        }
        assert torch.equal(plain.audio(index), sharded.audio(index)), before.audio


def test_the_layout_is_that_of_web_dataset(utterances: list[Utterance], tmp_path: Path) -> None:
    paths = write_shards(utterances, tmp_path / "shards", 3 / HOUR_S)
    assert [path.name for path in paths] == [f"shard-{n:05}.tar" for n in range(4)]
    counts = []
    for path in paths:
        with tarfile.open(path) as tar:
            names = tar.getnames()
            row = json.load(tar.extractfile(names[1]))  # type: ignore[arg-type]
        counts.append(len(names) // 2)
        for sound, described in zip(names[::2], names[1::2], strict=True):
            assert sound.partition(".")[0] == described.partition(".")[0]
            assert sound.partition(".")[2] in {"flac", "ogg", "mp3"}
            assert described.endswith(".json")
        assert row["audio_filepath"] == names[0]
    assert max(counts) - min(counts) <= 1


def test_the_same_utterances_give_the_same_bytes(
    utterances: list[Utterance], tmp_path: Path
) -> None:
    one, two = (write_shards(utterances, tmp_path / name, 1) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_workers_read_shards_too(utterances: list[Utterance], tmp_path: Path) -> None:
    write_shards(utterances, tmp_path / "shards", 3 / HOUR_S)
    dataset = UtteranceDataset(read_shards(tmp_path / "shards"), number)
    plan = [[0, 5], [3], [9, 1]]
    alone, shared = (list(batches(dataset, plan, workers)) for workers in (0, 1))
    for one, other in zip(alone, shared, strict=True):
        assert one.names == other.names
        assert torch.equal(one.audio, other.audio)


def rows_of(shard_sizes: list[int], loose: int = 0) -> list[Utterance]:
    rows: list[Utterance] = [
        ShardUtterance(
            audio=Path(f"/{shard}.tar/{k}.flac"), duration_s=1.0, start_byte=0, size_bytes=1
        )
        for shard, size in enumerate(shard_sizes)
        for k in range(size)
    ]
    return rows + [Utterance(audio=Path(f"/{k}.wav"), duration_s=1.0) for k in range(loose)]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    loose=st.integers(0, 5),
    size=st.integers(1, 20),
    epoch=st.integers(0, 3),
)
def test_windows_hold_every_utterance_once_and_few_shards(
    sizes: list[int], loose: int, size: int, epoch: int
) -> None:
    rows = rows_of(sizes, loose)
    found = windows(rows, size, seed=1, epoch=epoch)
    assert sorted(index for window in found for index in window) == list(range(len(rows)))
    assert all(len(window) == size for window in found[:-1])
    assert found == windows(rows, size, seed=1, epoch=epoch)
    # a shard is read from its start to its end before the next one
    order = [index for window in found for index in window]
    groups = [rows[i].audio.parent if i < sum(sizes) else i for i in order]
    changes = sum(one != other for one, other in pairwise(groups))
    assert changes == len(sizes) + loose - 1


def test_windows_change_with_the_epoch_and_the_seed() -> None:
    rows = rows_of([2] * 12)
    drawn = [windows(rows, 6, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(drawn[i] != drawn[j] for i in range(4) for j in range(i))


def test_a_manifest_is_one_window_in_its_own_order() -> None:
    assert windows(rows_of([], 5), 2, seed=0, epoch=3) == [[0, 1, 2, 3, 4]]


@given(st.lists(st.integers(0, 12), min_size=1), st.integers(1, 5))
def test_processes_share_each_batch(sizes: list[int], processes: int) -> None:
    plan = [list(range(100 * k, 100 * k + size)) for k, size in enumerate(sizes)]
    shares = [share(plan, rank, processes) for rank in range(processes)]
    for number, rows in enumerate(plan):
        parts = [mine[number] for mine in shares]
        together = sorted(row for part in parts for row in part)
        few = len(rows) < processes
        assert together == sorted(rows * processes if few else rows)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert not rows or all(parts)


def damage(path: Path, how: str) -> None:
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    elif how == "no tar":
        path.write_bytes(b"not a tar file" * 99)
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [("no tar", r"shard-00000\.tar cannot be read: .*copy it again"), ("gone", "names no shard")],
)
def test_a_bad_shard_is_named(
    utterances: list[Utterance], tmp_path: Path, how: str, message: str
) -> None:
    [path] = write_shards(utterances, tmp_path / "shards", 1)
    damage(path, how)
    with pytest.raises(ManifestError, match=message):
        read_shards(tmp_path / "shards")


@pytest.mark.parametrize(("how", "message"), [("cut", "cut short"), ("gone", "cannot open")])
def test_a_shard_that_changes_later_is_named(
    utterances: list[Utterance], tmp_path: Path, how: str, message: str
) -> None:
    [path] = write_shards(utterances, tmp_path / "shards", 1)
    dataset = UtteranceDataset(read_shards(path), number)
    damage(path, how)
    with pytest.raises(AudioError, match=rf"^/.*shard-00000\.tar/\d+\.\w+: .*{message}"):
        dataset.audio(len(dataset) - 1)


def test_a_line_without_its_sound_is_named(tmp_path: Path) -> None:
    content = b'{"audio_filepath": "1.flac", "duration": 1}'
    (tmp_path / "1.json").write_bytes(content)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "1.json", "1.json")
    with pytest.raises(ManifestError, match=r"a\.tar/1\.json: no file '1\.flac' in the shard"):
        read_shards(tmp_path / "a.tar")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (member("1.json", tarfile.SYMTYPE, "gone.json"), r"1\.json is a link or a device"),
        (member("1.json", tarfile.SYMTYPE, "1.json"), r"1\.json is a link or a device"),
        (member("1.json", tarfile.LNKTYPE, "1.json"), r"1\.json is a link or a device"),
        (member("1.flac", tarfile.CHRTYPE), r"1\.flac is a link or a device"),
        (member("1.json", size=8 << 30), "cannot be read"),
        (member("1.flac", size=8 << 30), "cannot be read"),
        (member("long", tarfile.GNUTYPE_LONGNAME, size=8 << 30), "cannot be read: a header of"),
        (member("x", tarfile.XHDTYPE, size=8 << 30), "cannot be read: a header of"),
        (member("1.json", size=2) + b"\xff\xfe".ljust(512, b"\0"), "cannot be read: .*utf-8"),
    ],
)
def test_what_is_no_plain_file_or_declares_more_than_there_is_is_refused(
    tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "a.tar").write_bytes(content + bytes(1024))
    with pytest.raises(ManifestError, match=rf"a\.tar.*{says}") as refused:
        read_shards(tmp_path / "a.tar")
    assert "\n" not in str(refused.value)


def test_nothing_is_left_where_an_utterance_cannot_be_read(
    utterances: list[Utterance], tmp_path: Path
) -> None:
    utterances[0].audio.write_bytes(b"RIFF")
    with pytest.raises(SpeechkitError, match=r"0\.wav"):
        write_shards(utterances, tmp_path / "out" / "shards", 1)
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_exists_is_kept(utterances: list[Utterance], tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="exists; give a new folder"):
        write_shards(utterances, tmp_path, 1)
    with pytest.raises(ManifestError, match="hours_per_shard=0: give a number above 0"):
        write_shards(utterances, tmp_path / "new", 0)


def test_a_run_trains_from_shards_and_goes_on_bit_by_bit(
    nets: dict[str, Any], corpus: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = corpus(12, "train")
    write_shards(read_manifest(manifest), tmp_path / "shards", 2 / HOUR_S)
    assert len(list((tmp_path / "shards").iterdir())) > 2
    data = Data(train=tmp_path / "shards", dev=corpus(4, "dev"), batch_size=2, window=5)
    run = Run(
        model=nets["clip"],
        data=data,
        steps=9,
        schedule="constant",
        augment=("white_noise",),
        save_every=2,
    )
    fit(run, tmp_path / "whole", device="cpu")
    fit(replace(run, steps=5), tmp_path / "parts", device="cpu")
    fit(run, tmp_path / "parts", resume=True, device="cpu")
    same = Path("last", "training", "weights.safetensors")
    whole, parts = ((tmp_path / out / same).read_bytes() for out in ("whole", "parts"))
    assert whole == parts
    pattern = replace(run, data=replace(data, train=tmp_path / "shards" / "shard-*.tar"))
    fit(pattern, tmp_path / "pattern", device="cpu")
    assert (tmp_path / "pattern" / same).read_bytes() == whole


def test_sound_that_cannot_be_read_is_refused_before_it_is_put_in_a_shard(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(AudioError, match=r"cannot decode .*a\.wav"):
        write_shards([Utterance(audio=tmp_path / "a.wav", duration_s=1)], tmp_path / "out", 1)
    part = Utterance(audio=tmp_path / "gone.wav", duration_s=1, offset_s=1)
    with pytest.raises(AudioError, match=r"cannot open .*gone\.wav"):
        write_shards([part], tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()
