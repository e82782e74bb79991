"""Manifests: JSON lines that say which utterances there are and what was said in them."""

import difflib
import json
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechkit.errors import ManifestError
from speechkit.files import whole_file
from speechkit.text import is_unicode, lines_of
from speechkit.untrusted import UntrustedError, parse_json

Segments = tuple[tuple[float, float], ...]

MANIFEST_SUFFIXES = (".jsonl", ".json")
"""What manifests are called; NeMo's are JSON lines too, and called .json."""
KEYS = ("audio_filepath", "duration", "text", "phones", "label", "segments", "offset", "speaker")
REQUIRED = ("audio_filepath", "duration")


class ManifestWarning(UserWarning):
    """A key of a manifest that may have been meant for another."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A stretch of a recording and what it holds.

    `audio` is absolute; `phones` are separated by spaces; `segments` are the `(start_s, end_s)` of
    speech, counted from `offset_s`. `where` is its manifest and line, for complaints.
    """

    audio: Path
    duration_s: float
    text: str | None = None
    phones: str | None = None
    label: str | None = None
    segments: Segments | None = None
    offset_s: float = 0.0
    speaker: str | None = None
    where: str = field(default="", compare=False, repr=False)

    @property
    def place(self) -> str:
        """What to call it in a complaint: its manifest and line, if it has these, and its file."""
        return f"{self.where}: {self.audio}" if self.where else str(self.audio)

    @property
    def unlabeled(self) -> bool:
        """Whether there is neither text, label nor segments: it counts for methods alone."""
        return self.text is None and self.label is None and self.segments is None


def read_manifest(path: str | os.PathLike[str], *, check_files: bool = True) -> list[Utterance]:
    """Reads JSON lines with `audio_filepath`, `duration` and any of the other KEYS.

    Paths are relative to the manifest; other keys are ignored, with a ManifestWarning for one that
    is nearly one of KEYS. Raises ManifestError as `train.jsonl:17: duration: ...`; `check_files`
    also asks that each audio file exists.
    """
    path = Path(path)
    told: set[str] = set()
    utterances = [
        parse_row(line, path.parent, check_files, f"{path.name}:{number}", told)
        for number, line in enumerate(lines_of(path), start=1)
        if line.strip()
    ]
    if not utterances:
        raise ManifestError(f"manifest {path} has no utterances; write one JSON object per line")
    return utterances


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Writes JSON lines, paths relative to the manifest; the file appears whole or not at all."""
    path = Path(path)
    lines = [json.dumps(row_of(u, path.parent), ensure_ascii=False) + "\n" for u in utterances]
    if not lines:
        raise ManifestError(f"no utterances to write to {path}; give at least one")
    with whole_file(path) as part:
        # of a name that is no UTF-8, JSON's own escapes
        part.write_text("".join(lines), "utf-8", errors="backslashreplace", newline="\n")


def row_of(utterance: Utterance, folder: Path) -> dict[str, Any]:
    """What a line says of an utterance, its path relative to `folder`."""
    row = {
        "audio_filepath": Path(os.path.relpath(utterance.audio, folder)).as_posix(),
        "duration": utterance.duration_s,
        "text": utterance.text,
        "phones": utterance.phones,
        "label": utterance.label,
        "segments": utterance.segments,
        "offset": utterance.offset_s or None,
        "speaker": utterance.speaker,
    }
    return {key: value for key, value in row.items() if value is not None}


def parse_row(line: str, folder: Path, check_files: bool, where: str, told: set[str]) -> Utterance:
    """The utterance that the line `where` describes, its path relative to `folder`.

    `told` gathers the keys that were warned of. ManifestError begins with `where`.
    """
    try:
        row = parse_json(line)
        if not isinstance(row, dict):
            raise ManifestError('not a JSON object; write {"audio_filepath": ..., "duration": ...}')
        _check_keys(row, where, told)
        return _utterance(row, folder, check_files, where)
    except (UntrustedError, ManifestError) as error:
        raise ManifestError(f"{where}: {error}") from error


def _utterance(row: dict[str, Any], folder: Path, check_files: bool, where: str) -> Utterance:
    name = _string(row, "audio_filepath")
    if not name:
        raise ManifestError("audio_filepath: missing; give the path of the audio file")
    audio = Path(os.path.abspath(folder / name))
    if check_files and not os.path.isfile(audio):
        raise ManifestError(f"audio_filepath: no file {audio}; correct the path or drop the line")
    duration_s, offset_s = _number(row, "duration"), _number(row, "offset", 0.0)
    if duration_s <= 0:
        raise ManifestError(f"duration: {duration_s:g} is not positive; give seconds")
    if offset_s < 0:
        raise ManifestError(f"offset: {offset_s:g} is negative; give seconds from the file's start")
    return Utterance(
        audio=audio,
        duration_s=duration_s,
        text=_string(row, "text"),
        phones=_string(row, "phones"),
        label=_string(row, "label"),
        segments=_segments(row, duration_s),
        offset_s=offset_s,
        speaker=_string(row, "speaker"),
        where=where,
    )


def _check_keys(row: dict[str, Any], where: str, told: set[str]) -> None:
    """Names a key that is nearly one of KEYS and may stand in for it."""
    absent = [key for key in KEYS if key not in row]
    for key in row.keys() - told - set(KEYS):
        close = difflib.get_close_matches(key.lower(), absent, n=1, cutoff=0.83)
        if not close:
            continue
        if close[0] in REQUIRED:
            raise ManifestError(f"{key}: no such key; did you mean {close[0]!r}?")
        told.add(key)
        warnings.warn(
            f"{where}: {key}: no such key, it is ignored; did you mean {close[0]!r}?",
            ManifestWarning,
            stacklevel=2,
        )


def _string(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise ManifestError(f"{key}: {value!r} is not a string; write it in quotes")
    # the names of files may be any bytes
    if value is not None and key != "audio_filepath" and not is_unicode(value):
        raise ManifestError(f"{key}: {value!r} has half of a character; write it in UTF-8")
    return value


def _number(row: dict[str, Any], key: str, default: float | None = None) -> float:
    value: Any = row.get(key, default)
    if not _is_number(value):
        given = "missing" if value is None else f"{value!r} is not a number"
        raise ManifestError(f"{key}: {given}; give seconds, such as 3.2")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _segments(row: dict[str, Any], duration_s: float) -> Segments | None:
    value = row.get("segments")
    if value is None:
        return None
    pairs = value if isinstance(value, list) else [value]
    end_of_last = 0.0
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))):
            raise ManifestError(
                f"segments: {pair!r} is not a [start, end]; write [[0.2, 1.5], ...]"
            )
        start, end = pair
        if not end_of_last <= start < end <= duration_s:
            raise ManifestError(
                f"segments: {pair} is out of order or outside [0, {duration_s:g}]; "
                "sort them and cut them to the utterance"
            )
        end_of_last = end
    return tuple((float(start), float(end)) for start, end in pairs)
