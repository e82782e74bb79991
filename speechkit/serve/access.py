"""Lets requests in, and answers all errors in one line: the outermost layer of the application."""

import hmac
import logging
import time
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from speechkit.errors import SpeechkitError, one_line
from speechkit.serve.errors import ApiError, stopping
from speechkit.serve.limits import Body
from speechkit.serve.log import request_log, write
from speechkit.serve.service import Service
from speechkit.serve.settings import LOOPBACK

OPEN = ("/healthz",)
"""Routes that need no token."""
UNKNOWN = "other"
"""The route of unknown paths in the figures."""

_log = logging.getLogger(__name__)


class Access:
    """An ASGI layer: token, origin, connections of an address, body, errors, log and figures."""

    def __init__(self, app: ASGIApp, service: Service, routes: frozenset[str]) -> None:
        self.app, self.service, self.routes = app, service, routes
        self.requests = request_log()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        began_s = time.monotonic()
        answer = Answer(send)
        settings = self.service.settings
        body = Body(receive, settings.max_upload_bytes, settings.body_s)
        try:
            await self._let_in(scope, body if scope["type"] == "http" else receive, body, answer)
        except Exception as error:
            await self._refuse(scope, receive, answer, as_api_error(error))
        finally:
            self._record(scope, answer, body, time.monotonic() - began_s)

    async def _let_in(self, scope: Scope, receive: Receive, body: Body, answer: "Answer") -> None:
        headers = Headers(scope=scope)
        self._check(scope, headers)
        with self.service.addresses.one_more(_address(scope)):
            length = headers.get("content-length", "")
            if length.isascii() and length.isdecimal() and len(length) < 20:
                body.check(int(length))
            await self.app(scope, receive, answer)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raises ApiError for a request that must not be answered."""
        if scope["path"] in OPEN:
            return
        if self.service.stopping:
            raise stopping()
        settings = self.service.settings
        host, origin = headers.get("host", ""), headers.get("origin")
        # pages of other sites can reach this machine's own addresses, by a name of theirs too
        own = origin is None or _split(origin).netloc == host or origin in settings.origins
        if settings.token is None and _split(f"//{host}").hostname not in LOOPBACK:
            own = False
        if not own:
            message = f"pages of {origin or host!r:.80} may not call this server; see --origin"
            raise ApiError(403, message, "foreign_origin")
        if settings.token is not None:
            given = headers.get("authorization", "")
            expected = f"Bearer {settings.token}"
            if not hmac.compare_digest(given.encode(), expected.encode()):
                raise ApiError(
                    401,
                    "the token is missing or wrong; send the header Authorization: Bearer TOKEN",
                    "invalid_api_key",
                )

    async def _refuse(
        self, scope: Scope, receive: Receive, answer: "Answer", error: ApiError
    ) -> None:
        if answer.started:
            # nothing can be added to what was sent; the connection is closed
            return
        # the client may have left
        with suppress(OSError, RuntimeError):
            if scope["type"] == "http":
                await error.response(scope, receive, answer)
            else:
                socket = WebSocket(scope, receive, answer)
                await socket.send_denial_response(error.response)

    def _record(self, scope: Scope, answer: "Answer", body: Body, seconds: float) -> None:
        path = scope["path"]
        route = path if path in self.routes else UNKNOWN
        metrics = self.service.metrics
        metrics.requests.labels(route, str(answer.status)).inc()
        metrics.upload_bytes.inc(body.bytes)
        if scope["type"] == "http":
            metrics.request_seconds.labels(route).observe(seconds)
        write(
            self.requests,
            method=scope.get("method", "WS"),
            path=one_line(path),
            status=answer.status,
            seconds=round(seconds, 6),
            body_bytes=body.bytes,
            address=_address(scope),
        )


class Answer:
    """Sends a response and remembers its status: of HTTP, or with which a socket was closed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status, self.started = 0, False

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind.endswith("response.start"):
            self.status = message["status"]
        elif kind == "websocket.close":
            self.status = message.get("code", 1000)
        self.started = True
        await self._send(message)


def as_api_error(error: Exception) -> ApiError:
    """The answer for an exception; what is no error of the client is logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SpeechkitError):
        return ApiError(400, error, "wrong_request")
    _log.error("%s: %s", type(error).__name__, error)
    return ApiError(500, "the server failed; its log says why", "server_error")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "unknown"


def _split(url: str) -> SplitResult:
    """The parts of a URL, empty where it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
