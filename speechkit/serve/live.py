"""`WS /v1/listen`: live sound in, and the events that `speechkit listen --json` prints out."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from starlette.websockets import WebSocket, WebSocketDisconnect

from speechkit.errors import StreamError
from speechkit.events import rounded, to_row
from speechkit.serve.containers import WebM
from speechkit.serve.errors import ApiError, api_error, busy
from speechkit.serve.limits import BEARER
from speechkit.serve.sessions import Row, Sessions
from speechkit.serve.sound import DTYPES, Pcm
from speechkit.serve.state import State

OK, GOING_AWAY, REFUSED, FAILED, TRY_AGAIN = 1000, 1001, 1008, 1011, 1013
"""The codes with which a websocket is closed."""
THRESHOLDS = ("onset", "offset")
"""The fields of a detector's `postprocess` that a session may have of its own."""


class Sound(Protocol):
    """Decodes live sound to samples `[N]` at the model's rate; `waits` if that takes a thread."""

    waits: bool

    def feed(self, data: bytes) -> NDArray[np.float32]:
        """The samples that are decoded so far."""
        ...

    def end(self) -> NDArray[np.float32]:
        """The last samples."""
        ...

    def close(self) -> None:
        """Ends the decoder."""
        ...


async def listen(socket: WebSocket) -> None:
    """One connection: the events of its session, from `ready` to `end`."""
    state: State = socket.app.state.serving
    try:
        if state.stopping:
            raise busy("the server is stopping; try again later")
        name, net, _ = state.models.find(socket.query_params.get("model"))
        sessions = await asyncio.to_thread(state.sessions_of, name, net)
        sound = _sound(socket.query_params, sessions.pool.sample_rate)
        row = sessions.join(_thresholds(socket.query_params))
    except Exception as error:
        await socket.send_denial_response(api_error(error).response)
        return
    task = asyncio.current_task()
    assert task is not None
    state.live.add(task)
    try:
        await Connection(socket, state, sessions, row, sound).run()
    finally:
        state.live.discard(task)
        await asyncio.to_thread(sound.close)
        await row.leave()


def _sound(query: Mapping[str, str], target_rate: int) -> Sound:
    """The decoder that the query asks for; raises ApiError for an unknown one."""
    encoding = query.get("encoding", "s16le")
    if encoding == "webm":
        return WebM(target_rate)
    if encoding not in DTYPES:
        message = f"encoding={encoding!r:.40}: give {', '.join(DTYPES)} or webm"
        raise ApiError(400, message, param="encoding", code="invalid_value")
    rate = query.get("rate", str(target_rate))
    if not (rate.isascii() and rate.isdecimal() and len(rate) < 8):
        message = f"rate={rate!r:.40}: give the sample rate in hertz"
        raise ApiError(400, message, param="rate", code="invalid_value")
    return Pcm(encoding, int(rate), target_rate)  # type: ignore[arg-type]


def _thresholds(query: Mapping[str, str]) -> dict[str, float]:
    """The thresholds of speech that the query gives; raises ApiError for what is no number."""
    found: dict[str, float] = {}
    for name in THRESHOLDS:
        if (given := query.get(name)) is None:
            continue
        try:
            found[name] = float(given)
        except ValueError:
            message = f"{name}={given!r:.40}: give a number from 0 to 1"
            raise ApiError(400, message, param=name, code="invalid_value") from None
    return found


class Connection:
    """A websocket whose sound goes to a row, and whose client gets the row's events."""

    def __init__(
        self, socket: WebSocket, state: State, sessions: Sessions, row: Row, sound: Sound
    ) -> None:
        self._socket, self._state, self._sessions = socket, state, sessions
        self._row, self._sound, self._taken = row, sound, 0
        self._rate, self._limits = sessions.pool.sample_rate, state.settings.limits

    async def run(self) -> None:
        """Reads and answers until the sound ends, the client goes or the server stops."""
        offered = self._socket.scope.get("subprotocols", [])
        await self._socket.accept(subprotocol=BEARER if BEARER in offered else None)
        latency_s = round(self._sessions.pool.latency_s, 6)
        reading = asyncio.create_task(self._read())
        sending = asyncio.create_task(self._send_events())
        self._state.reading.add(reading)
        if self._state.stopping:
            reading.cancel()
        try:
            await self._send({"event": "ready", "sample_rate": self._rate, "latency_s": latency_s})
            await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
            await self._finish(reading, sending)
        except (WebSocketDisconnect, TimeoutError):
            # the client has gone, or does not read
            pass
        except Exception as error:
            await self._refuse(error)
        finally:
            self._state.reading.discard(reading)
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)

    async def _finish(self, reading: "asyncio.Task[None]", sending: "asyncio.Task[None]") -> None:
        """After the last sample, sends the last events, and how much sound came."""
        if sending.done():
            sending.result()
        elif not reading.cancelled():
            reading.result()
        await self._feed(await asyncio.to_thread(self._sound.end))
        await self._row.end()
        await sending
        heard_s = rounded(self._taken / self._rate)
        await self._send({"event": "end", "heard_s": heard_s, "dropped_samples": 0})
        await self._close(GOING_AWAY if self._state.stopping else OK)

    async def _read(self) -> None:
        """Takes sound until the client says that it ends."""
        while True:
            try:
                message = await self._in_time(self._socket.receive())
            except TimeoutError:
                raise ApiError(
                    408, f"nothing came for {self._limits.stall_s:g} s; send sound, or the end"
                ) from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", OK))
            if (data := message.get("bytes")) is None:
                _check_end(message["text"])
                return
            feed = self._sound.feed
            await self._feed(
                await asyncio.to_thread(feed, data) if self._sound.waits else feed(data)
            )

    async def _feed(self, samples: NDArray[np.float32]) -> None:
        self._taken += len(samples)
        if self._taken > self._limits.session_s * self._rate:
            raise ApiError(413, f"more than {self._limits.session_s:g} s of sound; connect anew")
        self._state.metrics.audio_s.labels("live").inc(len(samples) / self._rate)
        await self._row.feed(samples)

    async def _send_events(self) -> None:
        """Sends the row's events until its end; raises StreamError if it breaks."""
        while (outcome := await self._row.outcomes.get()) is not None:
            if isinstance(outcome, StreamError):
                raise outcome
            row = to_row(outcome)
            self._state.metrics.events.labels(row["event"]).inc()
            await self._send(row)

    async def _send(self, row: dict[str, Any]) -> None:
        await self._in_time(self._socket.send_text(json.dumps(row, ensure_ascii=False)))

    async def _in_time(self, action: Awaitable[Any]) -> Any:
        async with asyncio.timeout(self._limits.stall_s):
            return await action

    async def _refuse(self, error: Exception) -> None:
        """Sends an error and closes, unless the client has gone."""
        told = FAILED if isinstance(error, StreamError) else None
        shown = api_error(error)
        if told is None:
            told = TRY_AGAIN if shown.status == 503 else FAILED if shown.status >= 500 else REFUSED
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            await self._send(shown.row)
            await self._close(told)

    async def _close(self, code: int) -> None:
        await self._in_time(self._socket.close(code))


def _check_end(text: str) -> None:
    """Raises ApiError unless a text message says that the sound ends."""
    try:
        row = json.loads(text)
    # deeply nested JSON exhausts the stack
    except (ValueError, RecursionError):
        row = None
    if row != {"type": "end"}:
        raise ApiError(400, f'{text!r:.60}: send sound as binary messages, then {{"type": "end"}}')
