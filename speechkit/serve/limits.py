"""Bounds what clients take: connections of an address, bodies, and uploads at a time."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.types import Message, Receive

from speechkit.serve.errors import ApiError, busy

T = TypeVar("T")


class Addresses:
    """Counts the connections of each address."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.counts: Counter[str] = Counter()

    @contextmanager
    def one_more(self, address: str) -> Iterator[None]:
        """Within the block the address has one more; raises ApiError if these are too many."""
        if self.counts[address] >= self.most:
            raise busy(f"{address} has {self.most} connections, which is the most")
        self.counts[address] += 1
        try:
            yield
        finally:
            self.counts[address] -= 1
            if not self.counts[address]:
                del self.counts[address]


class Body:
    """Receives a request's body of at most `most_bytes`, within `within_s` seconds in all."""

    def __init__(self, receive: Receive, most_bytes: int, within_s: float) -> None:
        self.bytes = 0
        self._receive, self._most = receive, most_bytes
        self._within_s = within_s
        self._until_s = asyncio.get_running_loop().time() + within_s
        self._read = False

    async def __call__(self) -> Message:
        """The next ASGI message; raises ApiError beyond a limit."""
        if self._read:
            # what follows the body is the client's leaving, for which there is no limit
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until_s):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(
                408, f"the body took more than {self._within_s:g} s; send it faster", "timeout"
            ) from None
        self.bytes += len(message.get("body", b""))
        self._read = not message.get("more_body", False)
        self.check(self.bytes)
        return message

    def check(self, size: int) -> None:
        """Raises ApiError for a body of too many bytes."""
        if size > self._most:
            raise ApiError(
                413,
                f"the body has more than {self._most:,} bytes; send a shorter recording, or a "
                "compressed one",
                "too_large",
            )


class Jobs:
    """Computes in `workers` threads while at most `queue` jobs wait."""

    def __init__(self, workers: int, queue: int) -> None:
        self._most, self.accepted = workers + queue, 0
        self._pool = ThreadPoolExecutor(workers, "upload")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Within the block one more recording is accepted; ApiError if these are too many."""
        self._accept()
        try:
            yield
        finally:
            self.accepted -= 1

    async def run(self, job: Callable[[], T]) -> T:
        """The result of a job; raises ApiError if too many wait."""
        self._accept()
        future = asyncio.get_running_loop().run_in_executor(self._pool, job)
        # a job goes on after its client has left, and takes its place until its end
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    async def run_in_place(self, job: Callable[[], T]) -> T:
        """The result of a job of a recording that has its `place`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, job)

    def close(self) -> None:
        """Waits for all jobs, then ends the threads."""
        self._pool.shutdown()

    def _accept(self) -> None:
        if self.accepted >= self._most:
            raise busy(f"{self.accepted} recordings are waiting or being computed")
        self.accepted += 1

    def _done(self, future: "asyncio.Future[T]") -> None:
        self.accepted -= 1
        # of a client that has left
        if not future.cancelled():
            future.exception()
