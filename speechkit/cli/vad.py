"""`speechkit vad`: where in sound files there is speech, in the formats that other tools read."""

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechkit.cli.infer import each_file
from speechkit.cli.models import load_model
from speechkit.cli.options import AudioFiles, Json, complete_model
from speechkit.cli.output import say
from speechkit.errors import ConfigError
from speechkit.transcript import clock

if TYPE_CHECKING:
    from speechkit.infer import Segment


class Format(StrEnum):
    """What `speechkit vad` can write."""

    text = "text"
    json = "json"
    rttm = "rttm"
    csv = "csv"
    srt = "srt"
    audacity = "audacity"


ONE_FILE = (Format.srt, Format.audacity)
"""Formats that have no place for the name of a file."""


def vad(
    audio: AudioFiles,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="A MarbleNet folder, or a bundled one.",
            autocompletion=complete_model,
        ),
    ] = "vad",
    form: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.text,
    frames: Annotated[
        bool, typer.Option("--frames", help="One JSON object per frame instead of segments.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find the stretches of speech in each file, in seconds."""
    from speechkit.infer import segments_of, speech_probabilities

    form = Format.json if as_json else form
    if form in ONE_FILE and len(audio) > 1 and not frames:
        raise ConfigError(f"{form} holds one file and was given {len(audio)}; write one at a time")
    net = load_model(model)
    if form is Format.csv and not frames:
        print("audio_filepath,start_s,end_s")
    for path, scored in each_file(audio, lambda path: speech_probabilities(net, path)):
        speech, frame_s, duration_s = scored
        if frames:
            for index, probability in enumerate(speech.tolist()):
                row = {"time_s": round(index * frame_s, 6), "speech": probability}
                print(json.dumps({"audio_filepath": str(path), **row}))
            continue
        found = segments_of(net, speech, frame_s, duration_s)
        if form is Format.text:
            said = ", ".join(f"{s.start_s:.2f}-{s.end_s:.2f} s" for s in found)
            say(f"{path}: {said or 'no speech'}")
        else:
            print("".join(WRITERS[form](path, found)), end="", flush=True)


def _json(path: Path, found: Sequence["Segment"]) -> list[str]:
    row: dict[str, Any] = {
        "audio_filepath": str(path),
        "segments": [[round(s.start_s, 6), round(s.end_s, 6)] for s in found],
    }
    return [json.dumps(row, ensure_ascii=False) + "\n"]


def _rttm(path: Path, found: Sequence["Segment"]) -> list[str]:
    """NIST Rich Transcription Time Marked: one SPEAKER line per stretch."""
    name = path.stem.replace(" ", "_")
    return [
        f"SPEAKER {name} 1 {s.start_s:.3f} {s.end_s - s.start_s:.3f} <NA> <NA> speech <NA> <NA>\n"
        for s in found
    ]


def _csv(path: Path, found: Sequence["Segment"]) -> list[str]:
    quoted = '"' + str(path).replace('"', '""') + '"'
    return [f"{quoted},{s.start_s:.3f},{s.end_s:.3f}\n" for s in found]


def _srt(path: Path, found: Sequence["Segment"]) -> list[str]:
    """SubRip subtitles."""
    return [
        f"{number}\n{clock(s.start_s)} --> {clock(s.end_s)}\nspeech\n\n"
        for number, s in enumerate(found, start=1)
    ]


def _audacity(path: Path, found: Sequence["Segment"]) -> list[str]:
    """A label track of Audacity."""
    return [f"{s.start_s:.6f}\t{s.end_s:.6f}\tspeech\n" for s in found]


WRITERS: dict[Format, Callable[[Path, Sequence["Segment"]], list[str]]] = {
    Format.json: _json,
    Format.rttm: _rttm,
    Format.csv: _csv,
    Format.srt: _srt,
    Format.audacity: _audacity,
}
