"""`speechkit classify` and `transcribe`: sound files in, an answer for each."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import typer

from speechkit.cli.models import load_model
from speechkit.cli.options import AudioFiles, Json, ModelName
from speechkit.cli.output import complain, show
from speechkit.errors import AudioError

T = TypeVar("T")
Answer = tuple[dict[str, Any], str]
"""An answer as JSON and in words."""


def classify(model: ModelName, audio: AudioFiles, as_json: Json = False) -> None:
    """Say which label each file is."""
    from speechkit.infer import classify as answer

    def one(net: Any, path: Path) -> Answer:
        found = answer(net, path)
        row = {"label": found.label, "score": found.score, "scores": found.scores}
        return row, f"{found.label} ({found.score:.1%})"

    _each(model, "clip", one, audio, as_json)


def transcribe(model: ModelName, audio: AudioFiles, as_json: Json = False) -> None:
    """Write down what is said in each file."""
    from speechkit.infer import transcribe as answer

    def one(net: Any, path: Path) -> Answer:
        text = answer(net, path).text
        return {"text": text}, text

    _each(model, "ctc", one, audio, as_json)


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


def _each(
    model: str,
    task: str,
    answer: Callable[[Any, Path], Answer],
    audio: list[Path],
    as_json: bool,
) -> None:
    from speechkit.tasks import require

    net = load_model(model)
    require(net, task)
    for path, (row, said) in each_file(audio, lambda path: answer(net, path)):
        show({"audio_filepath": str(path), **row}, f"{path}: {said}", as_json)
