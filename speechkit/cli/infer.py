"""`speechkit classify` and `transcribe`: sound files in, an answer for each."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from speechkit.cli.models import load_model, tell_purpose
from speechkit.cli.options import AudioFiles, Json, ModelName, complete_component
from speechkit.cli.output import complain, show
from speechkit.cli.written import Format, Formatted, Out, check, write
from speechkit.errors import AudioError

T = TypeVar("T")

Decoder = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="How text is read from the scores: greedy, beam:beam=32.",
        autocompletion=complete_component("decoder"),
    ),
]


def classify(model: ModelName, audio: AudioFiles, as_json: Json = False) -> None:
    """Say which label each file is."""
    from speechkit.infer import classify as answer
    from speechkit.tasks import require

    net = load_model(model)
    require(net, "clip")
    tell_purpose(model)
    for path, found in each_file(audio, lambda path: answer(net, path)):
        row = {"label": found.label, "score": found.score, "scores": found.scores}
        said = f"{path}: {found.label} ({found.score:.1%})"
        show({"audio_filepath": str(path), **row}, said, as_json)


def transcribe(
    model: ModelName,
    audio: AudioFiles,
    form: Formatted = Format.text,
    out: Out = None,
    decoder: Decoder = "greedy",
    as_json: Json = False,
) -> None:
    """Write down what is said in each file; --json is --format json."""
    from speechkit.infer import reader_of
    from speechkit.infer import transcribe as answer

    form = Format.json if as_json else form
    check(audio, form, out)
    net = load_model(model)
    reader = reader_of(net, decoder)
    tell_purpose(model)
    for path, found in each_file(audio, lambda path: answer(net, path, decoder=reader)):
        write(found, path, form, out, plain=f"{path}: {found.text}")


def each_file(audio: list[Path], answer: Callable[[Path], T]) -> Iterator[tuple[Path, T]]:
    """The answer for every file that can be read; exit code 1 if there is one that cannot."""
    unread = 0
    for path in audio:
        try:
            found = answer(path)
        except AudioError as error:
            complain("error", error)
            unread += 1
        else:
            yield path, found
    if unread:
        raise typer.Exit(1)
