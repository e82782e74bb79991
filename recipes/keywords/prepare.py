"""A folder of keywords, other speech and noise as manifests.

    python recipes/keywords/prepare.py data/keywords FOLDER

FOLDER holds a folder for each keyword, `_unknown_` and `_background_`; see README.md.
"""

import hashlib
import math
import random
from collections.abc import Iterator
from pathlib import Path

import speechkit as sk
from speechkit.data import Utterance, audio_duration_s, find_audio, write_manifest
from speechkit.errors import ManifestError

UNKNOWN, BACKGROUND = "_unknown_", "_background_"
PIECE_S = 1.0
"""The length of a clip from a long recording."""
SPEECH_S = 0.3
"""The least speech in a clip of `unknown`."""
DEV_SHARE = 0.1
"""Of the speakers, and of the end of each recording of noise, for development."""
MOST = 2
"""Clips of `unknown`, and of `background`, for each clip of a keyword, at most."""


def prepare(source: Path, out: Path) -> list[Path]:
    """Writes `train.jsonl` and `dev.jsonl`; no speaker is in both, where files name speakers."""
    if not source.is_dir():
        raise ManifestError(f"{source} is no folder; give one with a folder for each keyword")
    for name in (UNKNOWN, BACKGROUND):
        if not (source / name).is_dir():
            raise ManifestError(f"{source} has no folder {name}; see recipes/keywords/README.md")
    folders = [p for p in source.iterdir() if p.is_dir() and p.name[0] not in "._"]
    words = [clip for folder in sorted(folders) for clip in keyword_clips(folder)]
    if not words:
        raise ManifestError(f"{source} has no folder with clips of a keyword; make one for each")
    words += list(unknown_clips(source / UNKNOWN))
    chosen = dev_speakers(words)
    parts: dict[str, list[Utterance]] = {"train": [], "dev": []}
    for clip in words:
        parts["dev" if clip.speaker in chosen else "train"].append(clip)
    for clip, part in background_clips(source / BACKGROUND):
        parts[part].append(clip)
    labels = {folder.name for folder in folders} | {"unknown", "background"}
    for part, clips in parts.items():
        if missing := sorted(labels - {str(clip.label) for clip in clips}):
            raise ManifestError(
                f"{part} would have no clip of {missing[0]!r}; add recordings of other speakers, "
                "or longer ones of noise"
            )
    paths = {part: out / f"{part}.jsonl" for part in parts}
    for part, path in paths.items():
        write_manifest(path, thinned(parts[part], random.Random(part)))
    return list(paths.values())


def keyword_clips(folder: Path) -> Iterator[Utterance]:
    """Whole recordings."""
    for path in find_audio([folder]):
        yield clip_of(path, folder.name, 0.0, audio_duration_s(path))


def unknown_clips(folder: Path) -> Iterator[Utterance]:
    """The pieces with speech, detected by the bundled `vad`."""
    vad = sk.prepare(sk.load("vad"))
    for path in find_audio([folder]):
        speech = sk.detect(vad, path)
        for start_s, end_s in pieces(audio_duration_s(path)):
            inside = (min(end_s, s.end_s) - max(start_s, s.start_s) for s in speech)
            if sum(max(0.0, overlap_s) for overlap_s in inside) >= SPEECH_S:
                yield clip_of(path, "unknown", start_s, end_s)


def background_clips(folder: Path) -> Iterator[tuple[Utterance, str]]:
    """All pieces, each with the part that it is for."""
    for path in find_audio([folder]):
        duration_s = audio_duration_s(path)
        for start_s, end_s in pieces(duration_s):
            part = "train" if end_s <= (1 - DEV_SHARE) * duration_s else "dev"
            clip = Utterance(
                audio=path.resolve(),
                offset_s=start_s,
                duration_s=end_s - start_s,
                label="background",
            )
            yield clip, part


def pieces(duration_s: float) -> Iterator[tuple[float, float]]:
    """Start and end of each full piece of a recording; a short recording is one piece."""
    for index in range(max(1, math.floor(duration_s / PIECE_S))):
        yield index * PIECE_S, min((index + 1) * PIECE_S, duration_s)


def clip_of(path: Path, label: str, start_s: float, end_s: float) -> Utterance:
    """A segment of a recording; the file's name starts with its speaker."""
    return Utterance(
        audio=path.resolve(),
        offset_s=start_s,
        duration_s=end_s - start_s,
        label=label,
        speaker=path.stem.partition("_")[0],
    )


def dev_speakers(clips: list[Utterance]) -> set[str]:
    """A tenth of the speakers by the hash of the name, and others until each label has one."""
    labels: dict[str, set[str]] = {}
    for clip in clips:
        labels.setdefault(str(clip.speaker), set()).add(str(clip.label))
    chosen: set[str] = set()
    missing = set().union(*labels.values())
    for speaker in sorted(labels, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(chosen) < DEV_SHARE * len(labels) or labels[speaker] & missing:
            chosen.add(speaker)
            missing -= labels[speaker]
    return chosen


def thinned(clips: list[Utterance], chance: random.Random) -> list[Utterance]:
    """The clips of keywords, and at most MOST times as many of each of the other two labels."""
    kept = [clip for clip in clips if clip.label not in ("unknown", "background")]
    most = MOST * len(kept)
    for label in ("unknown", "background"):
        pool = [clip for clip in clips if clip.label == label]
        kept += chance.sample(pool, min(len(pool), most))
    return kept


if __name__ == "__main__":
    sk.cli.prepare(lambda out, folder: prepare(Path(folder), Path(out)))
