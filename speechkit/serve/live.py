"""`WS /v1/listen`: takes sound and sends events, in the rows of `speechkit listen --json`."""

import asyncio
import json
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from speechkit.errors import SpeechkitError, StreamError
from speechkit.events import to_row
from speechkit.serve.errors import ApiError
from speechkit.serve.models import Served
from speechkit.serve.service import Service, service_of
from speechkit.serve.sessions import Backlog, Inbox, Sessions
from speechkit.serve.sound import Sound, sound_of

DEFAULT_RATE = 16_000
BACKLOG_TOLD_S = 1.0
"""A client is told that its sound waits after so long."""
MOST_UNSENT = 1_000
"""Events that may wait for a client that does not read."""
BACKLOG = {"event": "backlog"}
"""The row that tells it."""
NORMAL, GOING_AWAY, REFUSED, BROKEN = 1000, 1001, 1008, 1011
"""Codes with which a connection is closed."""


async def listen(socket: WebSocket) -> None:
    """One live connection: a session of a model."""
    service, query = service_of(socket), socket.query_params
    served = service.models.find(query.get("model"), "listen")
    rate = query.get("rate", str(DEFAULT_RATE))
    if not rate.isascii() or not rate.isdecimal() or len(rate) > 9:
        raise ApiError(400, f"rate={rate!r:.40}, expected hertz", "wrong_field", "rate")
    sessions = service.sessions_of(served)
    session, inbox = sessions.join()
    try:
        sound = sound_of(query.get("encoding", "s16le"), int(rate), sessions.pool.sample_rate)
        await socket.accept()
        await Connection(socket, service, served, sessions, session, inbox, sound).run()
    finally:
        await sessions.leave(session)


class Connection:
    """A live connection while it lasts."""

    def __init__(
        self,
        socket: WebSocket,
        service: Service,
        served: Served,
        sessions: Sessions,
        session: int,
        inbox: Inbox,
        sound: Sound,
    ) -> None:
        self.socket, self.service, self.served = socket, service, served
        self.sessions, self.session, self.inbox, self.sound = sessions, session, inbox, sound
        self.samples = 0
        self._stopping = self._receiving = False
        self._reader: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Ends the sound here, as the server stops."""
        self._stopping = True
        if self._receiving and self._reader:
            self._reader.cancel()

    async def run(self) -> None:
        """Sends `ready`, the events of the sound, and `end`; an error is sent in place of `end`."""
        pool, metrics = self.sessions.pool, self.service.metrics
        live = metrics.sessions.labels(self.served.name)
        live.inc()
        row = {"event": "ready", "sample_rate": pool.sample_rate}
        reader = self._reader = asyncio.create_task(self._read())
        self.service.live.add(self.stop)
        try:
            await self._send({**row, "latency_s": round(pool.latency_s, 6)})
            writer = asyncio.create_task(self._write())
            await self._until_end(reader, writer)
        except (WebSocketDisconnect, OSError):
            # the client has left
            pass
        finally:
            reader.cancel()
            self.service.live.discard(self.stop)
            live.dec()
            metrics.live_audio_seconds.labels(self.served.name).inc(self.samples / pool.sample_rate)

    async def _until_end(self, reader: "asyncio.Task[None]", writer: "asyncio.Task[None]") -> None:
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                # it ends first only with an error
                await writer
            if not reader.cancelled():
                await reader
            await self._finish(writer, GOING_AWAY if self._stopping else NORMAL)
        except ApiError as error:
            await self._close(error, BROKEN if error.status >= 500 else REFUSED)
        except StreamError as error:
            await self._close(ApiError(500, error, "broken"), BROKEN)
        except SpeechkitError as error:
            await self._close(ApiError(400, error, "wrong_sound"), REFUSED)
        finally:
            writer.cancel()

    async def _read(self) -> None:
        """Feeds the session until the client ends its sound, or the server stops."""
        while not self._stopping:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", GOING_AWAY))
            if data := message.get("bytes"):
                await self._feed(await self.sound.feed(data))
            elif (text := message.get("text")) is not None:
                _check_end(text)
                return

    async def _receive(self) -> Message:
        """The client's next message; raises ApiError if it is late."""
        idle_s = self.service.settings.idle_s
        self._receiving = True
        try:
            async with asyncio.timeout(idle_s):
                return await self.socket.receive()
        except TimeoutError:
            message = f"no sound came for {idle_s:g} s; send it, or end"
            raise ApiError(408, message, "timeout") from None
        finally:
            self._receiving = False

    async def _feed(self, samples: Any) -> None:
        """Feeds samples; the client is told if they wait for long."""
        loop = asyncio.get_running_loop()
        told = loop.call_later(BACKLOG_TOLD_S, self.inbox.put_nowait, Backlog())
        try:
            await self.sessions.feed(self.session, samples)
            self.samples += len(samples)
        finally:
            told.cancel()

    async def _finish(self, writer: "asyncio.Task[None]", code: int) -> None:
        """Sends the last events and `end`."""
        await self._feed(await self.sound.end())
        await self.sessions.finish(self.session)
        await writer
        heard_s = round(self.samples / self.sessions.pool.sample_rate, 6)
        await self._send({"event": "end", "heard_s": heard_s, "dropped_samples": 0})
        await self.socket.close(code)

    async def _write(self) -> None:
        """Sends events until the session's end."""
        while (event := await self.inbox.get()) is not None:
            if isinstance(event, StreamError):
                raise event
            if self.inbox.qsize() > MOST_UNSENT:
                raise ApiError(400, f"{MOST_UNSENT} events were not read; read them", "unread")
            await self._send(BACKLOG if isinstance(event, Backlog) else to_row(event))

    async def _send(self, row: dict[str, Any]) -> None:
        await self.socket.send_text(json.dumps(row, ensure_ascii=False))

    async def _close(self, error: ApiError, code: int) -> None:
        await self._send(error.row)
        await self.socket.close(code)


def _check_end(text: str) -> None:
    """Raises ApiError for a message other than that which ends the sound."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or message.get("type") != "end":
        raise ApiError(
            400,
            f'the message {text!r:.40} is unknown; send sound, or {{"type": "end"}}',
            "wrong_message",
        )
