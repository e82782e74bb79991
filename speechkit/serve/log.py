"""One line of JSON for each request, without its content, and the last resort for errors."""

import json
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speechkit.serve.errors import api_error
from speechkit.serve.metrics import Metrics

DENIAL = "websocket.http.response"


class Log:
    """Logs each request to stderr and counts it; an error that nothing else caught is a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began_s, status, fault = time.monotonic(), 0, None

        async def noting(message: Message) -> None:
            nonlocal status
            kind = message["type"]
            if kind in ("http.response.start", f"{DENIAL}.start"):
                status = message["status"]
            elif kind == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            fault = type(error).__name__
            if not status and scope["type"] == "http":
                await api_error(error).response(scope, receive, noting)
        finally:
            seconds = time.monotonic() - began_s
            # other paths are content: a client may write anything there
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            self._write(scope, path, status, seconds, fault)

    def _write(
        self, scope: Scope, path: str, status: int, seconds: float, fault: str | None
    ) -> None:
        row: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "method": scope.get("method", "WS"),
            "path": path,
            "status": status,
            "seconds": round(seconds, 6),
            "body_bytes": scope.get("state", {}).get("body_bytes", 0),
            "address": scope["client"][0] if scope.get("client") else None,
        }
        if fault is not None:
            row["fault"] = fault
        # a terminal that is gone must not cost the clients their connections
        with suppress(OSError, ValueError):
            print(json.dumps(row), file=sys.stderr, flush=True)
