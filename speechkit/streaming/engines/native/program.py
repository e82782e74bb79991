"""The program of a native step: instructions over buffers, weights and state.

`engine.cpp` defines each instruction; the state of a session is a row of floats.
"""

from dataclasses import dataclass, field
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16
"""The multiple to which channels of a buffer are padded."""
LONGEST_CYCLE = 16
CODES = (
    *("separable", "depthwise", "affine", "activate", "log", "delay", "add", "preemphasis"),
    *("spectrum", "resample", "log_softmax", "sliding_average", "running_average", "pcen"),
)
FIELDS = (
    *("code", "in", "in_valid", "out", "out_valid", "rows_in", "rows_out", "channels_in"),
    *("channels_out", "keep", "cycle", "state", "weights", "taps", "stride", "dilation", "left"),
    *("rate", "other", "work", "activation", "numbers", "precision", "packed", "bias", "scale"),
    "offset",
)


class LoweringError(Exception):
    """A layer has no native form; the message names it."""


@dataclass(frozen=True)
class Buffer:
    """Rows of channels in the scratch memory; a `shared` one has several readers."""

    at: int
    valid: int
    rows: int
    channels: int
    shared: bool = False


@dataclass
class Program:
    """Collects instructions and weights; `lanes` are the channels of a group in C++."""

    lanes: int
    instructions: list[dict[str, int]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    weight_count: int = 0
    # the first float counts a session's steps
    state_count: int = LANES
    scratch_count: int = 0

    def buffer(self, rows: int, channels: int) -> Buffer:
        """A new buffer with a number of rows per step."""
        return Buffer(self.scratch(rows * ld(channels)), self.scratch(rows), rows, channels)

    def scratch(self, count: int) -> int:
        """Reserves `count` floats of scratch memory; returns their offset."""
        at, self.scratch_count = self.scratch_count, self.scratch_count + padded(count)
        return at

    def state(self, count: int) -> int:
        """Reserves `count` floats of a session's state, 0 at first; returns their offset."""
        at, self.state_count = self.state_count, self.state_count + padded(count)
        return at

    def hold(self, *values: Tensor) -> int:
        """Adds tensors of any type to the weights, aligned to registers."""
        at = self.weight_count
        for value in values:
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            raw = F.pad(raw, (0, -len(raw) % (4 * LANES))).view(torch.float32)
            self.weights.append(raw)
            self.weight_count += len(raw)
        return at

    def emit(self, code: str, x: Buffer, y: Buffer, **more: int) -> Buffer:
        """Appends one of CODES from x to y, with the FIELDS in `more`; returns y."""
        own = {
            "code": CODES.index(code),
            "in": x.at,
            "in_valid": x.valid,
            "out": y.at,
            "out_valid": y.valid,
            "rows_in": x.rows,
            "rows_out": y.rows,
            "channels_in": x.channels,
            "channels_out": y.channels,
            "stride": 1,
            "rate": 1,
            "cycle": 1,
            "other": -1,
        }
        self.instructions.append({**dict.fromkeys(FIELDS, 0), **own, **more})
        return y

    def slide(self, x: Buffer, keep: int) -> dict[str, int]:
        """The state of a layer with `keep` earlier rows, with room to advance."""
        cycle = 1
        while cycle < LONGEST_CYCLE and cycle * x.rows < keep:
            cycle *= 2
        rows = keep + cycle * x.rows
        return {"keep": keep, "cycle": cycle, "state": self.state(rows * ld(x.channels) + rows)}

    def row(self, channels: int) -> int:
        """The floats of a row of channels."""
        return ld(channels)

    def refuse(self, reason: str) -> NoReturn:
        """Raises LoweringError: the net then runs in torch, and `reason` is shown."""
        raise LoweringError(reason)


def padded(count: int) -> int:
    """`count` rounded up to full registers."""
    return -(-count // LANES) * LANES


def ld(channels: int) -> int:
    """The floats of a row; audio is a single channel, without padding."""
    return 1 if channels == 1 else padded(channels)
