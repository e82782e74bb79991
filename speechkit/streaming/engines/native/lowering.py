"""Helpers for a layer's `lower`: instructions that several layers use."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.nn import describes
from speechkit.ops.activation import Activation
from speechkit.ops.separable_conv import PRECISIONS, Packed, Shape, pack
from speechkit.streaming.engines.native.program import Buffer, Program, ld


class Lowering(Program):
    """A program that layers write with their `lower(program, x)`."""

    def add(self, layer: nn.Module, x: Buffer) -> Buffer:
        """Adds a layer's instructions; returns its output buffer."""
        if not describes(layer, "lower"):
            self.refuse(f"no native {type(layer).__name__}")
        y: Buffer = layer.lower(self, x)  # type: ignore[operator]
        return y

    def shared(self, x: Buffer) -> Buffer:
        """The same buffer for a second reader."""
        return replace(x, shared=True)

    def merge(self, module: nn.Module, shortcut: Buffer, body: Buffer) -> Buffer:
        """The output of a module `(shortcut, body) -> y` for two buffers."""
        if not describes(module, "lower"):
            self.refuse(f"no native {type(module).__name__}")
        y: Buffer = module.lower(self, shortcut, body)  # type: ignore[operator]
        return y

    def affine(self, x: Buffer, scale: Tensor, shift: Tensor) -> Buffer:
        """y = x · scale + shift per channel."""
        table = F.pad(torch.stack([scale, shift]).float(), (0, ld(x.channels) - x.channels))
        return self.emit("affine", x, self._in_place(x), weights=self.hold(table))

    def activate(self, x: Buffer, activation: Activation) -> Buffer:
        """y = f(x)."""
        return self.emit("activate", x, self._in_place(x), **self.act(activation))

    def log(self, x: Buffer, guard: float) -> Buffer:
        """y = ln(x + guard)."""
        return self.emit("log", x, self._in_place(x), weights=self.hold(torch.tensor([guard])))

    def matrix(
        self, x: Buffer, weight: Tensor, bias: Tensor | None = None, stride: int = 1
    ) -> Buffer:
        """y = W x + b at every stride-th frame, with W `[C', C]`."""
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        shape = Shape(weight.shape[1], weight.shape[0], stride=stride)
        return self.separable(x, pack(shape, None, weight.detach(), bias.detach(), "cpu"))

    def separable(self, x: Buffer, packed: Packed, residual: Buffer | None = None) -> Buffer:
        """f(W (w * x) + b + residual)."""
        if packed.choice.impl != "cpu":
            self.refuse("its weights are packed for another implementation")
        if packed.shape.c_out == 1:
            # rows of one channel are audio, without room for a full register
            self.refuse("no native matrix of one channel")
        shape, (_, matrix, bias, scale, offset, _, depthwise, *_) = packed.shape, packed.weights
        assert matrix is not None
        assert bias is not None
        assert scale is not None
        assert offset is not None
        more = {
            "precision": PRECISIONS.index(shape.precision),
            "packed": self.hold(matrix),
            "bias": self.hold(bias),
            "scale": self.hold(scale),
            "offset": self.hold(offset),
            **self.act(shape.activation),
        }
        if depthwise is not None:
            left, right = shape.padding
            more |= self.slide(x, right // shape.stride * shape.stride + left)
            rows = x.rows // shape.stride
            more["work"] = self.scratch(rows * ld(x.channels))
            more |= {"weights": self.hold(self.grouped(depthwise)), "taps": shape.taps}
            more |= {"left": left, "dilation": shape.dilation}
        if residual is not None:
            more["other"] = residual.at
        y = self.buffer(x.rows // shape.stride, shape.c_out)
        return self.emit("separable", x, y, stride=shape.stride, **more)

    def act(self, activation: Activation) -> dict[str, int]:
        """The instruction fields of an activation."""
        numbers = torch.tensor(activation.numbers)
        return {"activation": activation.code, "numbers": self.hold(numbers)}

    def grouped(self, taps: Tensor) -> Tensor:
        """`[C, 1, K]` as `[C / lanes, K, lanes]`."""
        if len(taps) == 1:
            self.refuse("no native convolution of one channel")
        rows = F.pad(taps[:, 0], (0, 0, 0, ld(len(taps)) - len(taps)))
        groups: Tensor = rows.unflatten(0, (-1, self.lanes)).transpose(1, 2).contiguous()
        return groups

    def _in_place(self, x: Buffer) -> Buffer:
        return self.buffer(x.rows, x.channels) if x.shared else x
