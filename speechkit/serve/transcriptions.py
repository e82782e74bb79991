"""`POST /v1/audio/transcriptions`, as OpenAI's API describes it."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from speechkit.data import read_sample_blocks
from speechkit.decode import Decoder
from speechkit.decode.beam import BeamCTC
from speechkit.errors import SpeechkitError
from speechkit.events import Event, Final
from speechkit.infer import reader_of, transcribe
from speechkit.serve.errors import ApiError
from speechkit.serve.formats import GRANULARITIES, RESPONSES, response
from speechkit.serve.models import Served
from speechkit.serve.service import Service, service_of
from speechkit.serve.uploads import Form, duration_s, uploaded
from speechkit.streaming.session import stream
from speechkit.text.transcript import Transcript

PIECE_S = 1.0
"""The audio that is computed at a time for server-sent events."""


async def transcriptions(request: Request) -> Response:
    """The text of a recording, or its segments as they are found."""
    service = service_of(request)
    async with AsyncExitStack() as stack:
        form = await stack.enter_async_context(uploaded(request))
        served = service.models.find(form.text("model"), "transcribe")
        shape = form.choice("response_format", *RESPONSES)
        granularities = _granularities(form)
        decoder = _decoder(served, form.text("prompt"))
        if form.choice("stream", "false", "true") == "true":
            stack.enter_context(service.jobs.place())
            # a recording that cannot be read is refused before the answer begins
            measure = partial(duration_s, form.sound, service.settings.max_audio_s)
            await service.jobs.run_in_place(measure)
            events = _in_turn(service, _events(served, form, decoder), stack.pop_all())
            # begun here, it gives its place back even if the client leaves before the first event
            await anext(events)
            return StreamingResponse(events, media_type="text/event-stream")
        found = await service.jobs.run(partial(_transcript, service, served, form, decoder))
        return response(found, shape, granularities, form.file_name)


def _granularities(form: Form) -> list[str]:
    name = "timestamp_granularities[]"
    asked = [str(value) for value in form.fields.getlist(name)] or [GRANULARITIES[0]]
    for value in asked:
        if value not in GRANULARITIES:
            message = f"{name} is {value!r:.80}, expected {' or '.join(GRANULARITIES)}"
            raise ApiError(400, message, "wrong_field", name)
    return asked


def _decoder(served: Served, prompt: str | None) -> Decoder:
    """Greedy, or a beam search that expects the phrases of a prompt."""
    phrases = [phrase.strip() for phrase in re.split(r"[,;\n]", prompt or "") if phrase.strip()]
    if not phrases:
        return reader_of(served.net)
    about = served.about
    try:
        beam = BeamCTC(about.labels, hotwords=phrases, normalization=about.normalization)
    except SpeechkitError as error:
        raise ApiError(400, error, "wrong_prompt", "prompt") from error
    return beam


def _transcript(service: Service, served: Served, form: Form, decoder: Decoder) -> Transcript:
    duration_s(form.sound, service.settings.max_audio_s)
    return transcribe(served.net, form.sound, decoder=decoder)


def _events(served: Served, form: Form, decoder: Decoder) -> Iterator[str]:
    """Server-sent events: a delta for each segment, whose text is final, and the whole text."""
    session = stream(served.net, decoder=decoder)
    said = ""
    for block in read_sample_blocks(form.sound, target_rate=session.sample_rate, block_s=PIECE_S):
        for delta in _deltas(session.feed(block), said):
            said += delta
            yield _event("delta", delta=delta)
    for delta in _deltas(session.finish(), said):
        said += delta
        yield _event("delta", delta=delta)
    yield _event("done", text=said)


def _deltas(events: Sequence[Event], said: str) -> Iterator[str]:
    """The texts of the segments that ended, each with the space before it."""
    for event in events:
        if isinstance(event, Final):
            yield f" {event.text}" if said else event.text
            said = said or event.text


def _event(kind: str, **fields: str) -> str:
    row = {"type": f"transcript.text.{kind}", **fields}
    return f"data: {json.dumps(row, ensure_ascii=False)}\n\n"


async def _in_turn(
    service: Service, events: Iterator[str], stack: AsyncExitStack
) -> AsyncIterator[str]:
    """An empty text, then the events; the form is closed at the end."""
    async with stack:
        yield ""
        while (event := await service.jobs.run_in_place(partial(next, events, None))) is not None:
            yield event
