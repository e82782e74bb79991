"""Who may ask and how much at a time: tokens, origins, connections of an address."""

import hmac
from collections import Counter
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from speechkit.serve import assets
from speechkit.serve.body import Body, too_large
from speechkit.serve.errors import RETRY_S, ApiError
from speechkit.serve.settings import Settings, is_loopback

BEARER = "bearer"
"""A websocket's subprotocol before its token, since browsers can send no header there."""
OPEN_PATHS = frozenset({"/healthz", *assets.PATHS})
"""Paths that need no token."""


class Guard:
    """Refuses requests before they are read."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._connections: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http":
            body = Body(scope, receive, self._settings.limits)
            receive, send = body.receive, body.answering(send)
        address = scope["client"][0] if scope.get("client") else ""
        self._connections[address] += 1
        try:
            self._check(scope, address)
        except ApiError as error:
            self._leave(address)
            await _deny(error, scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._leave(address)

    def _leave(self, address: str) -> None:
        self._connections[address] -= 1
        if not self._connections[address]:
            del self._connections[address]

    def _check(self, scope: Scope, address: str) -> None:
        headers, most = Headers(scope=scope), self._settings.limits.per_address
        if self._connections[address] > most:
            raise ApiError(
                429,
                f"more than {most} connections from {address}; close some",
                code="too_many_connections",
                headers={"Retry-After": str(RETRY_S)},
            )
        self._check_host(headers.get("host", ""))
        self._check_origin(headers)
        if self._settings.token is not None and scope["path"] not in OPEN_PATHS:
            self._check_token(scope, headers, self._settings.token)
        most_bytes, length = self._settings.limits.upload_bytes, headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > most_bytes):
            raise too_large(most_bytes)

    def _check_host(self, given: str) -> None:
        """Refuses names of other sites that lead to this machine, so that their pages cannot ask a
        server without a token."""
        if (
            self._settings.token is None
            and given
            and not is_loopback(_split(f"//{given}").hostname)
        ):
            raise ApiError(
                403,
                f"{given!r:.80} is no name of this server; ask it as localhost or 127.0.0.1",
                code="host_not_allowed",
            )

    def _check_origin(self, headers: Headers) -> None:
        """Refuses other web pages, whose requests a browser sends from the user's own machine."""
        origin = headers.get("origin")
        if origin is None or origin in self._settings.origins:
            return
        host = _split(origin).netloc
        if not host or host != headers.get("host"):
            raise ApiError(
                403,
                f"pages of {origin!r:.80} may not use this server; allow it with --origin",
                code="origin_not_allowed",
            )

    def _check_token(self, scope: Scope, headers: Headers, token: str) -> None:
        kind, _, given = headers.get("authorization", "").partition(" ")
        offered = scope.get("subprotocols", [])
        if kind.lower() != BEARER and BEARER in offered[:-1]:
            given = offered[offered.index(BEARER) + 1]
        elif kind.lower() != BEARER:
            given = ""
        if not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise ApiError(
                401,
                "no valid token; send it as Authorization: Bearer TOKEN",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _split(url: str) -> SplitResult:
    """The parts of a URL; empty if it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


async def _deny(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await error.response(scope, receive, send)
    else:
        await WebSocket(scope, receive, send).send_denial_response(error.response)
