"""`POST /v1/audio/transcriptions`, as OpenAI's API has it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from speechkit.component import Spec
from speechkit.decode import Decoder
from speechkit.events import Final
from speechkit.infer import reader_of, transcribe
from speechkit.serve.errors import ApiError, api_error
from speechkit.serve.formats import FORMATS, formatted
from speechkit.serve.models import Net
from speechkit.serve.state import State
from speechkit.serve.uploads import samples_of, uploaded
from speechkit.streaming.session import stream
from speechkit.text.transcript import Transcript

BLOCK_S = 1.0
"""The sound that is computed at a time where the text is streamed."""
Samples = NDArray[np.float32]


async def transcriptions(request: Request) -> Response:
    """The text of an uploaded recording in the format that is asked for."""
    state: State = request.app.state.serving
    async with uploaded(request) as upload:
        _, net, about = state.models.find(upload.field("model"), "transcribe")
        form = upload.choice("response_format", *FORMATS)
        granularities = upload.fields("timestamp_granularities")
        _check(form, granularities)
        decoder = _decoder(upload.field("prompt"))
        streamed = upload.choice("stream", "false", "true") == "true"
        if streamed and form not in ("json", "text"):
            message = f"stream=true gives no {form}; give response_format json or text"
            raise ApiError(400, message, param="stream", code="invalid_value")

        def read() -> tuple[Samples, Decoder]:
            samples = samples_of(upload.stream, about.sample_rate, state.settings.limits.upload_s)
            state.metrics.audio_s.labels("upload").inc(len(samples) / about.sample_rate)
            return samples, reader_of(net, decoder)

        def answer() -> Transcript:
            samples, reader = read()
            return transcribe(net, samples, about.sample_rate, reader)

        if not streamed:
            found = await state.workers.run(answer)
            return formatted(found, form, granularities, upload.name)
        # errors of the recording have their own status, so it is read first
        samples, reader = await state.workers.run(read)
        parts = _parts(state, net, samples, about.sample_rate, reader)
        return StreamingResponse(parts, media_type="text/event-stream")


def _check(form: str, granularities: list[str]) -> None:
    name = "timestamp_granularities"
    if odd := [value for value in granularities if value not in ("word", "segment")]:
        message = f"{name}={odd[0]!r:.40}: give word or segment"
        raise ApiError(400, message, param=name, code="invalid_value")
    if granularities and form != "verbose_json":
        message = f"{name} needs response_format=verbose_json; give it, or leave {name} out"
        raise ApiError(400, message, param=name, code="invalid_value")


def _decoder(prompt: str | None) -> Spec:
    """The decoder for a prompt: its words, or its phrases between commas or lines, are hotwords."""
    if not prompt or not prompt.strip():
        return Spec("greedy")
    pieces = prompt.replace("\n", ",").split(",") if set(",\n") & set(prompt) else prompt.split()
    return Spec("beam", {"hotwords": [piece.strip() for piece in pieces if piece.strip()]})


async def _parts(
    state: State, net: Net, samples: Samples, sample_rate: int, reader: Decoder
) -> AsyncIterator[str]:
    """Server-sent events: the text of each segment, and at the end all of it."""
    loop, gone = asyncio.get_running_loop(), threading.Event()
    texts: asyncio.Queue[str | None] = asyncio.Queue()

    def tell(text: str | None) -> None:
        loop.call_soon_threadsafe(texts.put_nowait, text)

    work = asyncio.ensure_future(
        state.workers.run(_stream_texts, net, samples, sample_rate, reader, tell, gone)
    )
    work.add_done_callback(lambda _: texts.put_nowait(None))
    whole = ""
    try:
        while (text := await texts.get()) is not None:
            delta = f" {text}" if whole else text
            whole += delta
            yield _event({"type": "transcript.text.delta", "delta": delta})
        work.result()
        yield _event({"type": "transcript.text.done", "text": whole})
    # the status is sent already
    except Exception as error:
        yield _event({"type": "error", **api_error(error).row})
    finally:
        gone.set()


def _stream_texts(
    net: Net,
    samples: Samples,
    sample_rate: int,
    reader: Decoder,
    tell: Callable[[str], None],
    gone: threading.Event,
) -> None:
    """Tells the text of each segment as soon as it has ended, until the client has gone."""
    session = stream(net, sample_rate, decoder=reader)
    block = round(BLOCK_S * sample_rate)
    for start in range(0, len(samples), block):
        if gone.is_set():
            return
        _tell(session.feed(samples[start : start + block]), tell)
    _tell(session.finish(), tell)


def _tell(events: list[Any], tell: Callable[[str], None]) -> None:
    for event in events:
        if isinstance(event, Final):
            tell(event.text)


def _event(row: dict[str, Any]) -> str:
    return f"data: {json.dumps(row, ensure_ascii=False)}\n\n"
