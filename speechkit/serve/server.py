"""Runs an application with uvicorn until SIGTERM or Ctrl-C, then finishes what was accepted."""

import asyncio
import json
import socket
from asyncio import TimerHandle, Transport
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from speechkit.errors import ConfigError
from speechkit.serve.app import make_app
from speechkit.serve.errors import ApiError
from speechkit.serve.service import Service
from speechkit.serve.settings import Settings

MAX_MESSAGE_BYTES = 2**20
"""Of one WebSocket message; a second of f32le at 192 kHz has 768,000."""
BACKLOG = 2048
"""Connections that may wait until they are accepted."""
STOPS_S = 30
"""After so long a stopping server leaves connections that do not end."""


class Server(uvicorn.Server):
    """A server that prints `ready` when it takes requests, and stops without losing any."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens the port and prints where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            names = [served.name for served in self.service.models]
            row = {"event": "ready", "url": f"http://{host}:{port}", "models": names}
            print(json.dumps(row), flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections, ends live sound, and waits for all answers."""
        for server in self.servers:
            server.close()
        self.service.stop_listening()
        until_s = asyncio.get_running_loop().time() + STOPS_S
        # uvicorn's own shutdown cuts WebSockets off
        while self.service.live and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)


def protocol_of(headers_s: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with a limit for the time in which headers come."""

    class Punctual(HttpToolsProtocol):
        _late: TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._wait()

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            row = json.dumps(ApiError(400, msg, "wrong_http").row).encode()
            head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            end = f"Content-Length: {len(row)}\r\nConnection: close\r\n\r\n"
            self.transport.write((head + end).encode() + row)
            self.transport.close()

        def _wait(self) -> None:
            self._stop_waiting()
            self._late = self.loop.call_later(headers_s, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._late is not None:
                self._late.cancel()

    return Punctual


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or Ctrl-C; returns when everything accepted is answered."""
    app = make_app(settings)
    options: dict[str, Any] = {"log_config": None, "log_level": "warning", "access_log": False}
    config = uvicorn.Config(
        app,
        http=protocol_of(settings.headers_s),
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOPS_S,
        **options,
    )
    # uvicorn raises the signal again after it has stopped
    with _listener(settings) as listener, suppress(KeyboardInterrupt):
        Server(config, app.state.service).run([listener])


def _listener(settings: Settings) -> socket.socket:
    """The socket of the host and port; raises ConfigError if it cannot be opened."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"--host {settings.host} --port {settings.port}: {reason}; give another --port, or an "
            "address of this machine"
        ) from error
