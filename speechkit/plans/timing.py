"""The end of a stream: how much must follow its last sample until its last frame is returned."""

from typing import Protocol


class Timed(Protocol):
    """A stream with `rate` frames for each `stride` samples, which are `delay` frames late."""

    @property
    def stride(self) -> int: ...

    @property
    def rate(self) -> int: ...

    @property
    def delay(self) -> int: ...


def samples_to_end(net: Timed) -> int:
    """How many samples after the last one bring out the last frame of a stream."""
    return net.delay * net.stride // net.rate


def blocks_to_end(net: Timed, samples: int, block_samples: int) -> int:
    """The number of blocks from the last `samples` of a stream to its last frame."""
    return -(-(samples + samples_to_end(net)) // block_samples)
