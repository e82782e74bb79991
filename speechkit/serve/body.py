"""The body of a request: its size and pace, and what is left of it when the answer is ready."""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from speechkit.serve.errors import ApiError
from speechkit.serve.settings import Limits

LINGER_S = 2.0
"""How long the rest of a body is read after an early answer."""


class Body:
    """Reads the body of an HTTP request within the limits."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self._scope, self._receive, self._limits = scope, receive, limits
        headers = Headers(scope=scope)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._whole = not has_body
        # such a client sends nothing before it is told to
        self._waits = "expect" in headers

    async def receive(self) -> Message:
        """The next message; raises ApiError for a body that is too large or comes too slowly."""
        if self._whole:
            # from here on it tells that the client has gone
            return await self._receive()
        try:
            async with asyncio.timeout(self._limits.stall_s):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(
                408, f"nothing of the body came for {self._limits.stall_s:g} s; send it anew"
            ) from None
        self._waits = False
        self._whole = not message.get("more_body", False)
        state = self._scope.setdefault("state", {})
        state["body_bytes"] = state.get("body_bytes", 0) + len(message.get("body", b""))
        if state["body_bytes"] > self._limits.upload_bytes:
            raise too_large(self._limits.upload_bytes)
        return message

    def answering(self, send: Send) -> Send:
        """`send` that reads the rest of the body before it ends an answer.

        Closing a connection whose client still sends would reset it, and the client would not see
        the answer.
        """

        async def answer(message: Message) -> None:
            ends = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not ends or self._whole or self._waits:
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    while (await self._receive()).get("more_body", False):
                        pass
            await send({"type": "http.response.body"})

        return answer


def too_large(most_bytes: int) -> ApiError:
    """The error for a body of more bytes."""
    message = f"a body of more than {most_bytes} bytes; send a shorter recording, or compress it"
    return ApiError(413, message, code="too_large")
