"""Manifests: JSON lines with utterances and their texts or labels."""

import difflib
import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechkit.errors import ManifestError
from speechkit.io.files import atomic_file
from speechkit.io.untrusted import UntrustedError, parse_json
from speechkit.text import is_unicode, lines_of

Segments = tuple[tuple[float, float], ...]

MANIFEST_SUFFIXES = (".jsonl", ".json")
"""The suffixes of manifests; NeMo's are JSON lines in a .json file."""
KEYS = ("audio_filepath", "duration", "text", "phones", "label", "segments", "offset", "speaker")
REQUIRED = ("audio_filepath", "duration")


class ManifestWarning(UserWarning):
    """A manifest has an unknown key that looks like a misspelled one."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A part of a recording with its text, label or segments.

    `audio` is an absolute path. `phones` are separated by spaces. `segments` are the
    `(start_s, end_s)` of speech, relative to `offset_s`. `where` is the manifest and line, for
    error messages.
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
        """Its manifest and line, if any, and its file, for error messages."""
        return f"{self.where}: {self.audio}" if self.where else str(self.audio)

    @property
    def unlabeled(self) -> bool:
        """True without text, label and segments: only training methods can use it."""
        return self.text is None and self.label is None and self.segments is None


def read_manifest(path: str | os.PathLike[str], *, check_files: bool = True) -> list[Utterance]:
    """Reads JSON lines with `audio_filepath`, `duration` and any of the other KEYS.

    Paths are relative to the manifest. Other keys are ignored, with a ManifestWarning for one that
    is similar to one of KEYS. Raises ManifestError as `train.jsonl:17: duration: ...`, with
    `check_files` also for an audio file that does not exist.
    """
    path = Path(path)
    warned: set[str] = set()
    utterances = [
        parse_row(line, path.parent, check_files, f"{path.name}:{number}", warned)
        for number, line in enumerate(lines_of(path), start=1)
        if line.strip()
    ]
    if not utterances:
        raise ManifestError(f"manifest {path} has no utterances; write one JSON object per line")
    return utterances


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Writes JSON lines atomically, with paths relative to the manifest."""
    path = Path(path)
    lines = [json.dumps(row_of(u, path.parent), ensure_ascii=False) + "\n" for u in utterances]
    if not lines:
        raise ManifestError(f"no utterances to write to {path}; give at least one")
    with atomic_file(path) as part:
        # bytes of a file name that are not UTF-8 are written as JSON escapes
        part.write_text("".join(lines), "utf-8", errors="backslashreplace", newline="\n")


def row_of(utterance: Utterance, folder: Path) -> dict[str, Any]:
    """The JSON object of an utterance, with its path relative to `folder`."""
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


def parse_row(
    line: str, folder: Path, check_files: bool, where: str, warned: set[str]
) -> Utterance:
    """The utterance of one line; paths in it are relative to `folder`.

    `warned` collects the keys for which a warning was given. The message of a ManifestError begins
    with `where`.
    """
    try:
        row = parse_json(line)
        if not isinstance(row, dict):
            raise ManifestError('not a JSON object; write {"audio_filepath": ..., "duration": ...}')
        _check_keys(row, where, warned)
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


def _check_keys(row: dict[str, Any], where: str, warned: set[str]) -> None:
    """Warns of a key that is similar to one of KEYS; raises if that one is required."""
    absent = [key for key in KEYS if key not in row]
    for key in row.keys() - warned - set(KEYS):
        close = difflib.get_close_matches(key.lower(), absent, n=1, cutoff=0.83)
        if not close:
            continue
        if close[0] in REQUIRED:
            raise ManifestError(f"{key}: no such key; did you mean {close[0]!r}?")
        warned.add(key)
        warnings.warn(
            f"{where}: {key}: no such key, it is ignored; did you mean {close[0]!r}?",
            ManifestWarning,
            stacklevel=2,
        )


def _string(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise ManifestError(f"{key}: {value!r} is not a string; write it in quotes")
    # file names may be any bytes
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


def utterances_of(manifest: Path | str | Sequence[Utterance]) -> Sequence[Utterance]:
    """Those of a manifest given by its path or by its utterances."""
    return read_manifest(manifest) if isinstance(manifest, Path | str) else manifest
