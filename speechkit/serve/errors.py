"""Errors as OpenAI's API gives them: one line of JSON with message, type, param and code."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from speechkit.errors import SpeechkitError, is_out_of_memory, one_line

RETRY_S = 1
"""The seconds after which a client is asked to try again."""


class ApiError(Exception):
    """A request that is refused with an HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, one_line(message), param, code
        # the rest of a body may not be read
        self.headers = {"Connection": "close", **(headers or {})}

    @property
    def row(self) -> dict[str, Any]:
        """The error as a JSON object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def response(self) -> Response:
        """The error as an HTTP response."""
        return JSONResponse(self.row, self.status, headers=self.headers)


def busy(message: str) -> ApiError:
    """The error for a server that is full, with the time after which to try again."""
    return ApiError(503, message, code="server_busy", headers={"Retry-After": str(RETRY_S)})


def api_error(error: Exception) -> ApiError:
    """The error that the client gets for any exception; it has details if the client can fix it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        message = {404: "there is no such path; see docs/serving.md"}.get(
            error.status_code, error.detail
        )
        return ApiError(error.status_code, message, headers=dict(error.headers or {}))
    if isinstance(error, ClientDisconnect):
        return ApiError(400, "the client has gone before its body ended")
    if isinstance(error, SpeechkitError):
        return ApiError(400, str(error))
    if is_out_of_memory(error):
        return busy("there is not enough memory now; try again, or send a shorter recording")
    return ApiError(500, "the server failed; its log has the kind of error", code="internal_error")


async def answer(request: Request, error: Exception) -> Response:
    """The handler of Starlette for errors of requests."""
    return api_error(error).response
