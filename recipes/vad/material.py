"""The material for the scenes of a part: labelled voices, and other recordings by kind."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from alignment import aligned_segments
from labels import Piece, Segments, Sound, pieces, speech_segments
from sources import Part, Recording, read, recordings

from speechkit.errors import ManifestError
from speechkit.models import Model

MOST = {"read": 24, "word": 120, "language": 80, "child": 60}
"""The most recordings of a source that are used, by kind of speech."""
ALIGNED = {"read", "word"}
NO_SOUNDS = {"untranscribed", "meeting", "hand", "singing", "babble", "music", "room"}

Teacher = Callable[[Sound], Segments | None]
"""The speech of a clean recording `[N]` without a text."""
Voices = dict[str, list[Piece]]
"""Pieces of clean speech, by source."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """The voices of a part by the kinds in `MOST`, and its other recordings by kind."""

    voices: dict[str, Voices]
    others: dict[str, list[Recording]]

    def sounds(self) -> dict[str, list[Recording]]:
        """The recordings that are neither speech nor music nor a room, by kind."""
        return {kind: found for kind, found in self.others.items() if kind not in NO_SOUNDS}


def gathered(
    folder: Path,
    part: Part,
    aligner: Model,
    chance: np.random.Generator,
    most: dict[str, int] = MOST,
    teacher: Teacher = speech_segments,
) -> Material:
    """The material of a part; `aligner` finds the words of transcribed speech, `teacher` the rest.

    `most` is like MOST. Raises ManifestError if a kind that each part needs is missing.
    """
    speech: dict[tuple[str, str], list[Recording]] = defaultdict(list)
    others: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings(folder):
        if recording.part == part:
            kind = recording.kind
            found = speech[kind, recording.source] if kind in most else others[kind]
            found.append(recording)
    voices: dict[str, Voices] = {kind: {} for kind in most}
    for (kind, source), found in sorted(speech.items()):
        some = [found[index] for index in chance.permutation(len(found))[: most[kind]]]
        cut = []
        for recording in some:
            x = read(recording)
            segments = labelled(recording, x, aligner, teacher)
            cut += pieces(x, segments or [], source, recording.maker)
        print(f"{part}: {len(cut)} pieces of {len(some)} recordings of {source}")
        if cut:
            voices[kind][source] = cut
    material = Material(voices=voices, others=dict(others))
    needed = {
        "transcribed sentences": voices["read"],
        "music": others.get("music"),
        "rooms": others.get("room"),
        "noise": material.sounds(),
    }
    missing = [name for name, found in needed.items() if not found]
    if missing:
        raise ManifestError(
            f"{folder} has no {' and no '.join(missing)} for the part {part}; "
            f"recipes/vad/README.md says which corpora have them"
        )
    return material


def labelled(recording: Recording, x: Sound, aligner: Model, teacher: Teacher) -> Segments | None:
    """The speech of a recording: by alignment if its words are known, otherwise the teacher's."""
    if recording.kind in ALIGNED and recording.text:
        return aligned_segments(aligner, x, recording.text)
    return teacher(x)
