"""`POST /v1/vad` and `/v1/classify`."""

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from speechkit.events import rounded
from speechkit.infer import classify, speech_probabilities
from speechkit.predictions import segments_of
from speechkit.serve.models import Served
from speechkit.serve.service import Service, service_of
from speechkit.serve.uploads import Form, duration_s, uploaded


async def vad(request: Request) -> Response:
    """The segments of speech in a recording, as `speechkit vad --json` prints them."""
    service = service_of(request)
    async with uploaded(request) as form:
        served = service.models.find(form.text("model"), "detect")
        return JSONResponse(await service.jobs.run(partial(_segments, service, served, form)))


async def label(request: Request) -> Response:
    """The label of a recording, as `speechkit classify --json` prints it."""
    service = service_of(request)
    async with uploaded(request) as form:
        served = service.models.find(form.text("model"), "classify")
        return JSONResponse(await service.jobs.run(partial(_label, service, served, form)))


def _segments(service: Service, served: Served, form: Form) -> dict[str, Any]:
    duration_s(form.sound, service.settings.max_audio_s)
    speech, frame_s, heard_s = speech_probabilities(served.net, form.sound)
    found = segments_of(served.about, speech, frame_s, heard_s)
    segments = [[rounded(part.start_s), rounded(part.end_s)] for part in found]
    return {"model": served.name, "duration_s": rounded(heard_s), "segments": segments}


def _label(service: Service, served: Served, form: Form) -> dict[str, Any]:
    duration_s(form.sound, service.settings.max_audio_s)
    found = classify(served.net, form.sound)
    scores = {"score": found.score, "scores": found.scores}
    return {"model": served.name, "label": found.label, **scores}
