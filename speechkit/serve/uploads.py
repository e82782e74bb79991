"""Uploaded recordings: the form of a request, and work on it beside the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from speechkit.data import read_sample_blocks
from speechkit.data.recording import source_name
from speechkit.errors import AudioError
from speechkit.serve.errors import ApiError, busy
from speechkit.serve.settings import Limits

T = TypeVar("T")
BLOCK_S = 60.0
MAX_FIELDS = 64


class Upload:
    """The fields of a form, and its file."""

    def __init__(self, form: FormData) -> None:
        self.form = form
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "no file in the form; send a recording as file", param="file")
        self.name = file.filename or "file"
        self.stream = file.file

    def field(self, name: str, default: str | None = None) -> str | None:
        """The text of a field; raises ApiError if it is a file."""
        value = self.form.get(name) or default
        if isinstance(value, UploadFile):
            raise ApiError(400, f"{name} is a file; send text", param=name)
        return value

    def fields(self, name: str) -> list[str]:
        """The texts of a field that may be repeated, with or without [] behind its name."""
        values = [*self.form.getlist(name), *self.form.getlist(f"{name}[]")]
        return [value for value in values if isinstance(value, str)]

    def choice(self, name: str, *known: str) -> str:
        """One of the known values of a field, the first if it is not given."""
        value = self.field(name, known[0])
        if value not in known:
            message = f"{name}={value!r:.40}: give {' or '.join(known)}"
            raise ApiError(400, message, param=name, code="invalid_value")
        return value


@asynccontextmanager
async def uploaded(request: Request) -> AsyncIterator[Upload]:
    """The form of a request; its file is on disk beyond a megabyte, and deleted afterwards."""
    given = request.headers.get("content-type", "")
    kind, options = parse_options_header(given)
    # any codec of Python would be taken, and some of them fail
    if kind != b"multipart/form-data" or options.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise ApiError(415, f"content of type {given!r:.60}; send multipart/form-data in UTF-8")
    async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
        yield Upload(form)


def samples_of(stream: BinaryIO, sample_rate: int, longest_s: float) -> NDArray[np.float32]:
    """The samples of a recording `[N]` at a rate; raises ApiError if it is too long."""
    parts, count = [], 0
    try:
        for block in read_sample_blocks(stream, target_rate=sample_rate, block_s=BLOCK_S):
            parts.append(block)
            count += len(block)
            if count > longest_s * sample_rate:
                raise ApiError(
                    413,
                    f"the recording is longer than {longest_s:g} s; cut it",
                    param="file",
                    code="too_long",
                )
    except AudioError as error:
        # a client does not know the class of the file
        message = str(error).replace(source_name(stream), "the recording")
        raise ApiError(400, message, param="file") from error
    return np.concatenate(parts)


class Workers:
    """Threads that decode and compute; up to `waiting` more requests may wait for them."""

    def __init__(self, limits: Limits) -> None:
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="upload")
        self._most, self.active = limits.workers + limits.waiting, 0

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """The result of a function in a thread; raises ApiError if too many requests wait."""
        if self.active >= self._most:
            raise busy(f"{self.active} recordings are waiting already; try again later")
        self.active += 1
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
            running.add_done_callback(self._done)
        except BaseException:
            self.active -= 1
            raise
        return await asyncio.shield(running)

    def _done(self, running: "asyncio.Future[Any]") -> None:
        self.active -= 1
        if not running.cancelled():
            # it is retrieved here where the client has gone
            running.exception()

    def close(self) -> None:
        """Waits for the work in progress."""
        self._threads.shutdown()
