"""`speechkit align`: when each word of a known text is said."""

from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.models import load_model
from speechkit.cli.options import Json, ModelName
from speechkit.cli.written import Format, Formatted, Out, check, write


def align(
    model: ModelName,
    audio: Annotated[Path, typer.Argument(metavar="AUDIO", help="A recording.")],
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT", help="A text file such as said.txt, or the words themselves."
        ),
    ],
    form: Formatted = Format.text,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find when each word of a text is said: start and end in seconds, word, score."""
    from speechkit.infer import align_text

    form = Format.json if as_json else form
    check([audio], form, out)
    found = align_text(load_model(model), audio, _content(text))
    lines = (f"{w.start_s:9.3f} {w.end_s:9.3f}  {w.text}  {w.score:.2f}" for w in found.words)
    write(found, audio, form, out, plain="\n".join(lines))


def _content(text: str) -> str:
    """What a file holds, or the words themselves."""
    from speechkit.text import read_text

    path = Path(text)
    if len(text.split()) != 1 or not path.suffix:
        return text
    return read_text(path)
