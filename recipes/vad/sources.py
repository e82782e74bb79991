"""All recordings, and whether each is for training, for choosing (dev) or for the test.

    python recipes/vad/sources.py data/sources FOLDER

FOLDER is that of conditions.py. Writes a manifest for each part; labels are `source: kind`.

No speaker, room or recording of a sound is in two parts. A source with few speakers is in one part
as a whole. In other sources the hash of the speaker's name decides.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from labels import RATE, Segments, Sound

import speechkit as sk
from speechkit.data import Utterance, audio_duration_s, read_manifest, write_manifest
from speechkit.data.audio import read_samples
from speechkit.errors import ManifestError
from speechkit.text import read_text

Part = Literal["train", "dev", "test"]

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".sph"}
DEV_SPEAKERS = {"118", "163", "1088", "1737"}
"""Of LibriSpeech, in all of its folders."""
DEV_NOISE = {"doing_the_dishes", "forest_2", "music", "water", "white_5"}
"""Of the background recordings; of ESC-10 it is fold 5."""
DEV_ROOM = "rir4"
DEV_SHARE = 7
"""One AN4 speaker and one wakeword clip in this many is not for training, by hash."""
TEST_READERS = {"26", "27"}
"""Speakers of LibriSpeech, in all of its folders."""
MUSIC: dict[str, tuple[Part, str]] = {
    "ardentryst": ("test", "orchestral"),
    "asc": ("dev", "electronic"),
    "extremetuxracer": ("test", "tracker"),
    "librosa_data": ("dev", "classical"),
    "lincity": ("test", "jazz"),
    "lomiri": ("dev", "ringtones"),
    "planetblupi": ("dev", "game"),
    "powermanga": ("dev", "chiptune"),
    "scorched3d": ("dev", "rock"),
    "solarwolf": ("test", "techno"),
    "warmux": ("test", "folk"),
}
"""Sources of music in field/ that are not for training, with their genre."""
NOISE: dict[str, tuple[Part, str]] = {
    "ambientsounds": ("dev", "weather"),
    "audiomentations_demo": ("test", "animals"),
    "blanket": ("test", "weather"),
    "lincity_sounds": ("dev", "machines"),
    "pinball": ("dev", "machines"),
    "sound_icons": ("test", "instruments"),
    "tuxfootball": ("test", "football"),
    "tuxpaint_stamp_sounds": ("test", "animals"),
    "tuxpaint_ui": ("dev", "household"),
}
"""Sources of noise in field/ that are not for training, with the kind of most of their clips."""
HOUSEHOLD = {
    *("apple_red", "camera_35mm", "glass", "hard_candy", "kettle", "rubberduck", "saw", "toilet"),
    *("scissors_small_closed", "scissors_small_open", "vacuum_cleaner"),
}
"""Clips that are not animals, in sources of animals."""
VOICES = re.compile(
    "School|Commune|Market|University|Residential|Health|santahat|xing_school|giggle|no_uturn"
)
"""Names of clips of noise in which someone may speak or laugh; these are left out."""
SPEECH: dict[str, tuple[Part, str]] = {
    "ami_excerpts": ("test", "meeting"),
    "common_voice_clips": ("dev", "language"),
    "emu_ae": ("test", "hand"),
    "ktuberling": ("dev", "language"),
    "mfa_tests": ("test", "hand"),
    "speechbrain_vad": ("test", "hand"),
    "tuxpaint_stamps": ("test", "language"),
}
"""Sources of speech in field/ that are not for training, with their kind."""
ROOMS: dict[str, Part] = {
    "EmptyApartmentBedroom": "dev",
    "SpokaneWomansClub": "dev",
    "UndergroundCarPark": "dev",
    "DomesticLivingRoom": "test",
    "LadyChapelStAlbansCathedral": "test",
    "PurnodesRailroadTunnel": "test",
    "TerrysFactoryWarehouse": "test",
    "TerrysTypingRoom": "test",
}
"""Measured rooms of field/ that are not for training."""
ESC10 = {
    "001": "animals",
    "004": "baby cry",
    "005": "household",
    "006": "sneeze",
    "007": "machines",
    "008": "machines",
    "009": "animals",
}
BACKGROUND = {"doing_the_dishes": "dishes", "music": "music", "white_5": "stationary"}
"""The kind of a recording by its name (or its folder's, in ESC10); all others are weather."""
PACKAGE_FILES, PACKAGE_S = 100, 40.0
"""The most files of a package, of music and of other sounds, and the longest part of each."""
PROMPTS = "core-sounds-en.txt"
PROMPT = re.compile(r"^([^;:\s]+): ([A-Za-z ,.;?!'-]+)$", re.MULTILINE)
"""A prompt with its words. Prompts with digits, symbols or remarks do not match."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A file, or its part from `start_s` to `end_s`: its kind, its maker, and the part it is in.

    `kind` is `read` (with its text), `word` (with its text), `untranscribed`, `language` or `child`
    for speech; `meeting` or `hand` for speech with segments made by people; `room`; `music`; or the
    name of a sound that is not speech.
    """

    path: Path
    kind: str
    source: str
    maker: str
    part: Part
    text: str | None = None
    segments: Segments | None = None
    start_s: float = 0.0
    end_s: float | None = None


def read(recording: Recording) -> Sound:
    """The sound of a recording, `[N]` at 16 kHz."""
    x: Sound = read_samples(recording.path, target_rate=RATE)
    end = None if recording.end_s is None else round(recording.end_s * RATE)
    return x[round(recording.start_s * RATE) : end]


def recordings(folder: Path) -> Iterator[Recording]:
    """All recordings in a folder of corpora; missing corpora are left out."""
    yield from librispeech(folder)
    yield from other_readers(folder)
    yield from words(folder)
    yield from meetings(folder)
    yield from noise_and_rooms(folder)
    yield from packages(folder)
    manifest = folder / "field" / "manifest.jsonl"
    for line in read_text(manifest).splitlines() if manifest.is_file() else []:
        yield from field(manifest.parent, json.loads(line))


def chosen(name: str) -> bool:
    """Whether a speaker or clip is kept out of training, the same on every machine."""
    return hashlib.sha256(name.encode()).digest()[0] % DEV_SHARE == 0


def sounds(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)


def lines(manifest: Path) -> list[Utterance]:
    return read_manifest(manifest) if manifest.is_file() else []


def share(name: str, of: int) -> Part:
    """The part of a speaker, by hash: one in `of` is for the test, and one in `of` for dev."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[-4:], "big") % of
    return "test" if number == 0 else "dev" if number == 1 else "train"


def librispeech(folder: Path) -> Iterator[Recording]:
    found = [
        (source, u.audio, u.text)
        for source, name in (
            ("mini_librispeech", "train"),
            ("mini_librispeech", "dev"),
            ("librispeech_extra", "manifest"),
        )
        for u in lines(folder / source / f"{name}.jsonl")
    ]
    source = "librispeech_speakers251"
    found += [(source, path, None) for path in sounds(folder / source)]
    for source, path, text in found:
        speaker = path.stem.split("-")[0]
        part: Part = "dev" if speaker in DEV_SPEAKERS else "train"
        yield Recording(
            path=path,
            kind="read" if text else "untranscribed",
            source=source,
            maker=f"librispeech {speaker}",
            part="test" if speaker in TEST_READERS else part,
            text=text,
        )


def other_readers(folder: Path) -> Iterator[Recording]:
    """AN4, whose dev speakers are divided into dev and test, Asterisk, wake words and FSDD."""
    found: list[tuple[Path, str, str, Part, str | None]] = []
    text: str | None
    for u in lines(folder / "an4" / "train" / "manifest.jsonl"):
        speaker = u.audio.stem.split("-")[1]
        found.append(
            (u.audio, "an4", speaker, share(speaker, 2) if chosen(speaker) else "train", u.text)
        )
    prompts = folder / "asterisk_en"
    texts = dict(PROMPT.findall(read_text(prompts / PROMPTS))) if prompts.is_dir() else {}
    for path in sounds(prompts):
        name = path.relative_to(prompts).with_suffix("").as_posix()
        if name in texts:
            found.append((path, "asterisk_en", "asterisk", "test", texts[name]))
    for path in sounds(folder / "wakeword"):
        if path.parent.name != "wakeword":
            # the speakers are not known: each clip counts as one
            name, text = f"{path.parent.name}/{path.stem}", path.parent.name.replace("_", " ")
            found.append((path, "wakeword", name, "dev" if chosen(name) else "train", text))
    for path in sounds(folder / "fsdd"):
        found.append((path, "fsdd", path.stem.split("_")[1], "train", None))
    for path, source, maker, part, text in found:
        kind = "read" if text else "untranscribed"
        yield Recording(path=path, kind=kind, source=source, maker=maker, part=part, text=text)


def words(folder: Path) -> Iterator[Recording]:
    for u in lines(folder / "words" / "speech_commands" / "manifest.jsonl"):
        assert u.speaker is not None
        yield Recording(
            path=u.audio,
            kind="word",
            source="speech_commands",
            maker=u.speaker,
            part=share(u.speaker, 10),
            text=u.label,
        )


def meetings(folder: Path) -> Iterator[Recording]:
    for u in lines(folder / "meetings" / "manifest.jsonl"):
        yield Recording(
            path=u.audio,
            kind="meeting",
            source="meetings",
            maker=u.audio.stem,
            part="test",
            segments=list(u.segments or ()),
        )


def noise_and_rooms(folder: Path) -> Iterator[Recording]:
    found = [
        (path, "esc10", ESC10.get(path.parent.name[:3], "weather"), path.name.startswith("5"))
        for path in sounds(folder / "noise" / "esc10")
    ]
    found += [
        (path, "background", BACKGROUND.get(path.stem, "weather"), path.stem in DEV_NOISE)
        for path in sounds(folder / "noise" / "background")
    ]
    found += [(path, "rir", "room", path.stem == DEV_ROOM) for path in sounds(folder / "rir")]
    for path, source, kind, is_dev in found:
        part: Part = "dev" if is_dev else "train"
        yield Recording(path=path, kind=kind, source=source, maker=path.stem, part=part)


def packages(folder: Path) -> Iterator[Recording]:
    """Music and sounds of unpacked Debian packages, all for training; README.md lists them."""
    for package in sorted(p for p in (folder / "packages").glob("*") if p.is_dir()):
        kinds: dict[str, list[Path]] = {"music": [], "noise": []}
        for path in sounds(package):
            name = path.relative_to(package.parent).as_posix().lower()
            kinds["music" if "music" in name else "noise"].append(path)
        for kind, found in kinds.items():
            # evenly through the names, since neighbours are alike
            for path in found[:: -(-len(found) // PACKAGE_FILES) or 1]:
                yield Recording(
                    path=path,
                    kind=kind,
                    source=package.name,
                    maker=package.name,
                    part="train",
                    end_s=PACKAGE_S,
                )


def field(folder: Path, row: dict[str, Any]) -> Iterator[Recording]:
    """The recordings of one file of field/."""
    path, source = folder / row["audio_filepath"], row["source"]
    part: Part = "train"
    kind = whole = "noise"
    if row["kind"] in ("music", "singing", "babble"):
        kind = row["kind"]
        part, _ = MUSIC.get(source, (part, ""))
    elif row["kind"] == "noise":
        part, whole = NOISE.get(source, (part, "noise"))
    elif row["kind"] == "rir":
        part, kind = ROOMS.get(path.stem, part), "room"
    elif "age" in row:
        # each file has one speaker
        part, kind = share(path.stem, 4), "child" if row.get("child") else "untranscribed"
    else:
        part, kind = SPEECH.get(source, (part, "untranscribed"))
        if kind == "hand" and "segments" not in row:
            return
    for name, start_s, end_s in row.get("clips", [("", 0.0, row["duration"])]):
        if row["kind"] == "noise":
            if VOICES.search(name):
                continue
            kind = "household" if Path(name).stem in HOUSEHOLD else whole
        yield Recording(
            path=path,
            kind=kind,
            source=source,
            maker=row.get("voice") or f"{source} {path.stem}",
            part=part,
            segments=[(a, b) for a, b in row["segments"]] if "segments" in row else None,
            start_s=start_s,
            end_s=end_s,
        )


def write(folder: Path, out: Path) -> list[Path]:
    """Writes `train.jsonl`, `dev.jsonl` and `test.jsonl`, each if it has recordings."""
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the folder that holds the corpora")
    rows: dict[Part, list[Utterance]] = defaultdict(list)
    for found in recordings(folder):
        # a file may be shorter than the longest part
        length_s = audio_duration_s(found.path)
        end_s = length_s if found.end_s is None else min(found.end_s, length_s)
        rows[found.part].append(
            Utterance(
                audio=found.path,
                offset_s=found.start_s,
                duration_s=end_s - found.start_s,
                text=found.text,
                label=f"{found.source}: {found.kind}",
                speaker=found.maker,
            )
        )
    if not rows:
        raise ManifestError(f"{folder} has no recordings; README.md names the corpora and folders")
    for part, utterances in rows.items():
        write_manifest(out / f"{part}.jsonl", utterances)
    return [out / f"{part}.jsonl" for part in rows]


if __name__ == "__main__":
    sk.cli.prepare(lambda out, folder: write(Path(folder), Path(out)))
