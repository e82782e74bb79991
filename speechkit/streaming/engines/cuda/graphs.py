"""Runs the work of a step on its device: at once on the CPU, or with graphs and streams on CUDA."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Work = Callable[[], object]
Copies = Sequence[tuple[Tensor, Tensor]]
"""From and to."""
WARM_UP = 3
"""The runs before a capture, which compile kernels and initialise libraries."""


class CpuQueue:
    """Runs work in the order in which it is given, each before a call returns."""

    def capture(self, work: Work) -> Work:
        """The same work, prepared to be run often; a queue may run it a few times now."""
        return work

    def now(self, work: Work) -> None:
        """Runs work once."""
        work()

    def run(self, given: Copies, work: Work, made: Copies) -> Callable[[], None]:
        """Copies inputs, runs the work and copies results; returns a function that waits."""
        _copy(given)
        work()
        _copy(made)
        return lambda: None


class CudaQueue:
    """Copies audio to the device, computes, and copies scores back, each in its own CUDA stream.

    So copies and computation overlap; the memory on the host must be pinned.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._in, self._compute, self._out = (torch.cuda.Stream(device) for _ in range(3))
        self._pool = torch.cuda.graph_pool_handle()
        self._follow()

    def capture(self, work: Work) -> Work:
        self._follow()
        with torch.cuda.stream(self._compute):
            for _ in range(WARM_UP):
                work()
        self._compute.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._compute):
            work()
        return graph.replay

    def now(self, work: Work) -> None:
        with torch.cuda.stream(self._compute):
            work()

    def _follow(self) -> None:
        """Makes work wait for earlier work of the caller, such as new weights and state."""
        self._compute.wait_stream(torch.cuda.current_stream(self._device))

    def run(self, given: Copies, work: Work, made: Copies) -> Callable[[], None]:
        with torch.cuda.stream(self._in):
            _copy(given)
        self._compute.wait_stream(self._in)
        self.now(work)
        self._out.wait_stream(self._compute)
        with torch.cuda.stream(self._out):
            _copy(made)
            done = torch.cuda.Event()
            done.record(self._out)
        return done.synchronize


Queue = CpuQueue | CudaQueue


def _copy(pairs: Copies) -> None:
    for given, made in pairs:
        made.copy_(given, non_blocking=True)
