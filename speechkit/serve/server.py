"""Runs a server with uvicorn until SIGTERM or Ctrl-C, and then answers the open requests."""

import asyncio
import json
import logging
import signal
import socket
import threading
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Response

from speechkit.data import AudioWarning
from speechkit.errors import ConfigError
from speechkit.serve.app import app_of
from speechkit.serve.errors import ApiError
from speechkit.serve.models import Net
from speechkit.serve.settings import Settings
from speechkit.serve.state import State

MAX_MESSAGE_BYTES = 2**20
"""Bytes of one message of a websocket."""
BACKLOG = 1024
KEEP_ALIVE_S = 75
"""How long a connection may be idle; clients keep one for less, and do not send into its end."""


class Server(uvicorn.Server):
    """Ends live sound before connections are closed, and exits with 0 when it is told to end."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._serving = state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no new connections, and answers those that are open."""
        for server in self.servers:
            server.close()
        await self._serving.drain()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Ends at a signal, which is not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def protocol_of(headers_s: float) -> type[H11Protocol]:
    """HTTP whose headers must come within `headers_s` seconds, and whose errors are JSON."""

    class Protocol(H11Protocol):
        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.late is not None:
                self.late.cancel()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY:
                self._wait()

        def send_400_response(self, msg: str) -> None:
            self._refuse(ApiError(400, f"{msg.rstrip('.')}; send HTTP/1.1"))

        def _wait(self) -> None:
            """Starts the timer between requests, and stops it within one."""
            within = self.cycle is not None and not self.cycle.response_complete
            if within and self.late is not None:
                self.late.cancel()
                self.late = None
            elif not within and self.late is None:
                self.late = self.loop.call_later(headers_s, self._give_up)

        def _give_up(self) -> None:
            self.late = None
            within = self.cycle is not None and not self.cycle.response_complete
            # a websocket has a protocol of its own
            mine = self.transport.get_protocol() is self
            if not mine or within or self.transport.is_closing():
                return
            if self.conn.their_state is h11.SEND_BODY:
                # it is answered already
                self.transport.close()
                return
            self._refuse(ApiError(408, f"no request came within {headers_s:g} s; send it anew"))

        def _refuse(self, error: ApiError) -> None:
            body = json.dumps(error.row).encode()
            reason = {400: "Bad Request", 408: "Request Timeout"}[error.status]
            head = (
                f"HTTP/1.1 {error.status} {reason}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()

    return Protocol


class LiveProtocol(WebSocketsSansIOProtocol):
    """Websockets whose refused handshakes are JSON."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        reject = self.conn.reject

        def refuse(status: int, text: str) -> Response:
            response = reject(status, json.dumps(ApiError(int(status), text).row))
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response

        self.conn.reject = refuse  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        error = self.conn.handshake_exc
        if error is None or self.handshake_initiated:
            return
        # uvicorn sends no answer to a handshake that is not understood, and keeps the connection
        refusal = self.conn.reject(400, str(error.__cause__ or error))
        self.transport.write(b"".join(self.conn.data_to_send()) or refusal.serialize())
        self.transport.close()


def server_of(nets: Mapping[str, Net], settings: Settings) -> Server:
    """The server of plans or models by name."""
    app, state = app_of(nets, settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol_of(settings.limits.headers_s),
        ws=LiveProtocol,
        ws_max_size=MAX_MESSAGE_BYTES,
        # sound hardly gets smaller
        ws_per_message_deflate=False,
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.limits.drain_s),
    )
    return Server(config, state)


def serve(nets: Mapping[str, Net], settings: Settings) -> None:
    """Serves until a signal; the first line on stdout is JSON with the address.

    Raises ConfigError if the address is taken.
    """
    # damaged recordings are answered as far as they can be read
    warnings.simplefilter("ignore", AudioWarning)
    # the log has a line for each request already
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    server = server_of(nets, settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
        except OSError as error:
            raise ConfigError(
                f"--host {settings.host} --port {settings.port}: {error.strerror}; give another"
            ) from error
        listening.listen(BACKLOG)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{listening.getsockname()[1]}"
        row = {"event": "ready", "url": url, "models": [*server._serving.models.nets]}
        # a signal may come as soon as the line is read
        with server.capture_signals():
            print(json.dumps(row), flush=True)
            server.run(sockets=[listening])
