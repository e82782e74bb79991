"""Errors as OpenAI's API returns them: one line of JSON."""

from typing import Any

from starlette.responses import JSONResponse

from speechkit.errors import one_line

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The `type` of a status; from 500 on it is server_error, for others invalid_request_error."""


class ApiError(Exception):
    """A request that is answered with an error: its HTTP status, message and fields."""

    def __init__(
        self,
        status: int,
        message: object,
        code: str,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(one_line(message))
        self.status, self.code, self.param = status, code, param
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}

    @property
    def row(self) -> dict[str, Any]:
        """The JSON object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        fields = {"type": KINDS.get(self.status, kind), "param": self.param, "code": self.code}
        return {"error": {"message": str(self), **fields}}

    @property
    def response(self) -> JSONResponse:
        """The HTTP response."""
        # the rest of a refused body is not read
        closing = {"Connection": "close"} if self.status in (408, 413) else {}
        return JSONResponse(self.row, self.status, {**self.headers, **closing})


def busy(what: str) -> ApiError:
    """The error for what may succeed a little later."""
    return ApiError(429, f"{what}; try again later", "busy", retry_after_s=1)


def stopping() -> ApiError:
    """The error for requests that come while the server stops."""
    return ApiError(503, "the server stops; try again later", "stopping", retry_after_s=5)
