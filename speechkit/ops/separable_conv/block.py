"""A residual block of packed convolutions as one call of C++.

Called one by one, small layers take less time than Python takes between the calls.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from speechkit.ops.native import call
from speechkit.ops.separable_conv import Packed, cpu
from speechkit.ops.separable_conv.shape import PRECISIONS
from speechkit.ops.separable_conv.unfused import needs_gradient


class _Layer(ctypes.Structure):
    """The structure Layer of cpu.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("taps", "packed", "bias", "scale", "offset")),
        ("parameters", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("channels", "channels_out", "count", "dilation")),
        *((name, ctypes.c_int64) for name in ("left", "precision", "activation")),
    )


class Block:
    """y = body(x), where the last convolution of the body adds shortcut(x) before its activation.

    Shape: x `[B, C, T]` channels-last, valid `[B, T]`, y `[B, C', T]`.
    """

    def __init__(self, body: Sequence[Packed], shortcut: Sequence[Packed]) -> None:
        self.parts = *body, *shortcut
        self.tables = [(_Layer * len(row))(*map(_layer, row)) for row in (body, shortcut)]
        self.c_out = body[-1].shape.c_out
        self.widest = max(packed.shape.c_out for packed in self.parts)

    def holds(self, parts: Sequence[Packed]) -> bool:
        """True if the block was made of these convolutions."""
        return [*map(id, parts)] == [*map(id, self.parts)]

    @staticmethod
    def can_hold(packed: Packed) -> bool:
        """True if C++ runs the convolution, and it returns as many frames as it gets."""
        s = packed.shape
        same = s.stride == 1 and sum(s.padding) == s.dilation * (max(s.taps, 1) - 1)
        return same and packed.choice.impl == "cpu"

    def can_take(self, x: Tensor) -> bool:
        """True for a plain tensor on the CPU without gradient, while no operations are recorded."""
        modes = torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack()
        recorded = modes or torch.compiler.is_compiling() or torch._C._get_tracing_state()
        plain = type(x) is Tensor and x.device.type == "cpu"
        return plain and not recorded and not needs_gradient(x)

    def __call__(self, x: Tensor, valid: Tensor) -> Tensor:
        rows = x.transpose(1, 2).float().contiguous()
        batch, frames, _ = rows.shape
        area = batch * frames * self.widest
        y = rows.new_empty(batch, frames, self.c_out)
        work = rows.new_empty(3 * area)
        tables = (x for table in self.tables for x in (ctypes.addressof(table), len(table)))
        given = rows, valid.contiguous(), work, y, area, batch, frames
        call(cpu.library().separable_block, *tables, *given)
        return y.transpose(1, 2)


def _layer(packed: Packed) -> _Layer:
    taps, matrix, bias, scale, offset, numbers, *_ = packed.weights
    s = packed.shape
    addresses = (None if x is None else x.data_ptr() for x in (taps, matrix, bias, scale, offset))
    assert numbers is not None
    precision = PRECISIONS.index(s.precision)
    sizes = s.c_in, s.c_out, s.taps, s.dilation, s.padding[0], precision, s.activation.kind
    return _Layer(*addresses, numbers.data_ptr(), *sizes)
