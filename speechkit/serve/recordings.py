"""`POST /v1/vad` and `/v1/classify`: what `speechkit vad` and `classify` print, for an upload."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from speechkit.events import rounded
from speechkit.infer import classify, detect
from speechkit.serve.models import Net
from speechkit.serve.state import State
from speechkit.serve.uploads import samples_of, uploaded


def _segments(net: Net, samples: Any, sample_rate: int) -> dict[str, Any]:
    found = detect(net, samples, sample_rate)
    return {"segments": [[rounded(s.start_s), rounded(s.end_s)] for s in found]}


def _label(net: Net, samples: Any, sample_rate: int) -> dict[str, Any]:
    found = classify(net, samples, sample_rate)
    return {"label": found.label, "score": found.score, "scores": found.scores}


async def vad(request: Request) -> Response:
    """The segments of speech of a recording, in seconds."""
    return await _answer(request, "detect", _segments)


async def label(request: Request) -> Response:
    """The label of a recording, with its score and those of all labels."""
    return await _answer(request, "classify", _label)


async def _answer(
    request: Request, verb: str, predict: Callable[[Net, Any, int], dict[str, Any]]
) -> Response:
    state: State = request.app.state.serving
    async with uploaded(request) as upload:
        name, net, about = state.models.find(upload.field("model"), verb)

        def work() -> dict[str, Any]:
            samples = samples_of(upload.stream, about.sample_rate, state.settings.limits.upload_s)
            duration_s = len(samples) / about.sample_rate
            state.metrics.audio_s.labels("upload").inc(duration_s)
            row = {"model": name, "duration_s": rounded(duration_s)}
            return {**row, **predict(net, samples, about.sample_rate)}

        return JSONResponse(await state.workers.run(work))
