"""`speechkit classify`, `transcribe` and `detect`: sound files in, an answer for each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from speechkit.cli.options import AudioFiles, Json, ModelName
from speechkit.cli.output import complain, show
from speechkit.errors import AudioError

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


def detect(model: ModelName, audio: AudioFiles, as_json: Json = False) -> None:
    """Find the stretches of speech in each file, in seconds."""
    from speechkit.infer import detect as answer

    def one(net: Any, path: Path) -> Answer:
        found = [(segment.start_s, segment.end_s) for segment in answer(net, path)]
        said = ", ".join(f"{start:.2f}-{end:.2f} s" for start, end in found)
        return {"segments": found}, said or "no speech"

    _each(model, "frame", one, audio, as_json)


def _each(
    model: str,
    task: str,
    answer: Callable[[Any, Path], Answer],
    audio: list[Path],
    as_json: bool,
) -> None:
    """Answers for every file that can be read; exit code 1 if there is one that cannot."""
    from speechkit.checkpoint import load
    from speechkit.tasks import require

    net = load(model)
    require(net, task)
    unread = 0
    for path in audio:
        try:
            row, said = answer(net, path)
        except AudioError as error:
            complain("error", error)
            unread += 1
        else:
            show({"audio_filepath": str(path), **row}, f"{path}: {said}", as_json)
    if unread:
        raise typer.Exit(1)
