"""Where a command's transcripts go: in one of the formats, to stdout or into a folder."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.output import say
from speechkit.errors import ConfigError
from speechkit.files import whole_file
from speechkit.transcript import FORMATS, ONE_FILE, Transcript


class Format(StrEnum):
    """The names of `speechkit.transcript.FORMATS`."""

    text = "text"
    json = "json"
    srt = "srt"
    vtt = "vtt"
    ctm = "ctm"


Formatted = Annotated[Format, typer.Option("--format", help="How to write it.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Write a file for each recording here, not to stdout."),
]


def check(audio: Sequence[Path], form: Format, out: Path | None) -> None:
    """Raises ConfigError where a transcript would take the place of another file."""
    if out is None and form in ONE_FILE and len(audio) > 1:
        raise ConfigError(
            f"{form} holds one recording and was given {len(audio)}; write them to --out FOLDER"
        )
    if out is None:
        return
    name, count = Counter(_file_name(path, form) for path in audio).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{count} recordings would be written to {out / name}; rename one")
    for path in audio:
        # what a person wrote down often lies beside a recording
        if (file := out / _file_name(path, form)).exists():
            raise ConfigError(f"{file} is there already; move it or name another --out")


def write(
    transcript: Transcript, audio: Path, form: Format, out: Path | None, *, plain: str
) -> None:
    """Writes one transcript into the folder, or to stdout, where text is shown as `plain`."""
    if out is not None:
        with whole_file(out / _file_name(audio, form)) as part:
            part.write_text(FORMATS[form](transcript, str(audio)), encoding="utf-8", newline="\n")
    elif form is Format.text:
        say(plain)
    else:
        print(FORMATS[form](transcript, str(audio)), end="", flush=True)


def _file_name(audio: Path, form: Format) -> str:
    return f"{audio.stem}.{'txt' if form is Format.text else form}"
