"""The native step's program as it is written: instructions over buffers, weights and state.

`engine.cpp` says what each instruction does; one session's state is a row of floats.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.nn import Serial
from speechkit.ops.activation import Activation

LANES = 16
"""What the channels of a buffer are padded to."""
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


class UnplannedError(Exception):
    """A layer that the native step does not know; its text names it."""


@dataclass(frozen=True)
class Buffer:
    """Rows of channels in the scratch; a `shared` one is read again and must not be changed."""

    at: int
    valid: int
    rows: int
    channels: int
    shared: bool = False


@dataclass
class Plan:
    """Instructions and weights as they grow; `lanes` are the channels of a group in C++.

    `planners` knows how each type of layer is planned.
    """

    lanes: int
    planners: "Mapping[type, Planner]"
    instructions: list[dict[str, int]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    weight_count: int = 0
    # the first float counts a session's steps
    state_count: int = LANES
    scratch_count: int = 0

    def buffer(self, rows: int, channels: int) -> Buffer:
        return Buffer(self.scratch(rows * ld(channels)), self.scratch(rows), rows, channels)

    def scratch(self, count: int) -> int:
        at, self.scratch_count = self.scratch_count, self.scratch_count + padded(count)
        return at

    def hold(self, *values: Tensor) -> int:
        """Puts tensors of any type among the weights, each from the beginning of a register."""
        at = self.weight_count
        for value in values:
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            raw = F.pad(raw, (0, -len(raw) % (4 * LANES))).view(torch.float32)
            self.weights.append(raw)
            self.weight_count += len(raw)
        return at

    def emit(self, code: str, x: Buffer, y: Buffer, **more: int) -> Buffer:
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
        """The state of a layer that looks back `keep` rows, and room to move on in it."""
        cycle = 1
        while cycle < LONGEST_CYCLE and cycle * x.rows < keep:
            cycle *= 2
        rows = keep + cycle * x.rows
        at = self.state_count
        self.state_count += padded(rows * ld(x.channels) + rows)
        return {"keep": keep, "cycle": cycle, "state": at}

    def act(self, activation: Activation) -> dict[str, int]:
        numbers = torch.tensor(activation.numbers)
        return {"activation": activation.code, "numbers": self.hold(numbers)}

    def grouped(self, taps: Tensor) -> Tensor:
        """`[C, 1, K]` as `[C / lanes, K, lanes]`."""
        if len(taps) == 1:
            raise UnplannedError("no native convolution of one channel")
        rows = F.pad(taps[:, 0], (0, 0, 0, ld(len(taps)) - len(taps)))
        groups: Tensor = rows.unflatten(0, (-1, self.lanes)).transpose(1, 2).contiguous()
        return groups

    def add_layer(self, layer: nn.Module, x: Buffer) -> Buffer:
        kind = type(layer)
        # a front end is a Serial of its own; any other subclass may compute something else
        own = kind in self.planners
        if not own and isinstance(layer, Serial) and type(layer).step is Serial.step:
            kind = Serial
        if kind not in self.planners:
            raise UnplannedError(f"no native {kind.__name__}")
        return self.planners[kind](self, layer, x)


def padded(count: int) -> int:
    """`count` rounded up to whole registers."""
    return -(-count // LANES) * LANES


def ld(channels: int) -> int:
    """The floats of a row; a sound is a single channel, without padding."""
    return 1 if channels == 1 else padded(channels)


Planner = Callable[[Plan, Any, Buffer], Buffer]
"""Adds a layer's instructions to a plan: the buffer that it reads in, the one it writes out."""
