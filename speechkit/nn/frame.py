"""Layers that process each frame separately."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit import ops
from speechkit.nn.stream import Chunk, StreamLayer
from speechkit.ops.explain import Choice
from speechkit.ops.linear import implementation

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

LEVELS = 2**16
"""The number of values of 16 bits."""


class Pointwise(StreamLayer):
    """A 1×1 convolution: y = W x (+ b) at every frame.

    Shape: x `[B, C, T]`, weight `[C', C]`, y `[B, C', T]`.
    """

    def __init__(self, c_in: int, c_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in))
        nn.init.xavier_uniform_(self.weight)
        self.bias = nn.Parameter(torch.empty(c_out)) if bias else None
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(c_in**-0.5), c_in**-0.5)

    def channels_out(self, c_in: int) -> int:
        return self.weight.shape[0]

    def implementation(self) -> Choice:
        """The implementation of its product."""
        return implementation(self.weight)

    def forward(self, c: Chunk) -> Chunk:
        y = ops.linear(c.x.transpose(1, 2), self.weight, self.bias).transpose(1, 2)
        return Chunk(y, c.valid)

    def matrix(self) -> tuple[Tensor, Tensor | None, int]:
        """Its weight `[C', C]`, its bias, and its stride."""
        return self.weight, self.bias, 1

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.matrix(x, *self.matrix())

    def macs(self, frames: int) -> int:
        return self.weight.numel() * frames

    def scale_outputs(self, scale: Tensor) -> None:
        """Multiplies the weights so that the output is multiplied by `scale [C']`."""
        self.weight.mul_(scale[:, None])
        if self.bias is not None:
            self.bias.mul_(scale)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}→{self.weight.shape[0]}, bias={self.bias is not None}"


class LogSoftmax(StreamLayer):
    """y = x − log Σ_c exp x[c], in float32 or float64. Shape: `[B, C, T]` → the same."""

    def forward(self, c: Chunk) -> Chunk:
        dtype = torch.promote_types(c.x.dtype, torch.float32)
        return Chunk(c.x.transpose(1, 2).log_softmax(2, dtype=dtype).transpose(1, 2), c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.emit("log_softmax", x)


class Dropout(nn.Dropout):
    """In training y = 0 with probability p, else x / (1 − p); p is rounded to 1/65,536.

    torch's dropout draws a random number for every element, which on a CPU takes a quarter of a
    small net's training step; here one number decides for four. Source: Srivastava et al.,
    JMLR 15, 2014.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        dropped = round(self.p * LEVELS)
        if dropped == LEVELS:
            return x * 0
        lowest = torch.iinfo(torch.int64).min
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(lowest, None)
        kept = drawn.view(torch.int16)[: x.numel()] >= dropped - LEVELS // 2
        # in the memory order of x, if it has no gaps
        dense = torch.empty_like(x, device="meta")
        kept = kept.as_strided(dense.shape, dense.stride())
        return torch.where(kept, x * (LEVELS / (LEVELS - dropped)), 0)

    def fuse(self) -> StreamLayer:
        """The identity, in evaluation."""
        return StreamLayer()

    def lower(self, program: Lowering, x: Value) -> Value:
        """The identity, in evaluation."""
        return x


class Add(nn.Module):
    """y = shortcut + body."""

    adds = True
    """The op before it may add the shortcut itself."""

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return shortcut + body

    def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
        """One instruction of two buffers."""
        return program.added(body, shortcut)


class Multiply(nn.Module):
    """y = shortcut · body."""

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return shortcut * body

    def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
        """One instruction of two buffers."""
        return program.expression("a * b", {}, shortcut, body)


class Affine(nn.Module):
    """y = x · scale + shift per channel: the result of a norm's `fuse()`.

    Shape: x and y `[B, C, T]`, scale and shift `[C]`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift[:, None], x, self.scale[:, None])

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.affine(x, self.scale, self.shift)


class Bias(nn.Module):
    """y = x + b per channel: the rest of a norm whose scale is folded into the weights.

    Shape: `[B, C, T]` → the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None]

    def fuse(self) -> Affine:
        """The same, for `fuse` to fold into the layer before."""
        return Affine(torch.ones_like(self.bias), self.bias.detach())

    def lower(self, program: Lowering, x: Value) -> Value:
        """The equal `Affine`."""
        return program.add(self.fuse(), x)


class BatchNorm(StreamLayer):
    """y = (x − μ) / sqrt(σ² + eps) · weight + bias per channel, over valid frames only.

    In training μ and σ² are those of the batch's valid frames, so padding has no effect. Evaluation
    uses running means of them (momentum as in torch), so that frames are independent.
    Shape: `[B, C, T]` → the same. Ioffe & Szegedy, arXiv:1502.03167.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float = 1e-3, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, c: Chunk) -> Chunk:
        if self.training:
            return self.normalize_batch(c)
        scale, shift = self._in_evaluation()
        return Chunk(torch.addcmul(shift[:, None], c.x, scale[:, None]), c.valid)

    def fuse(self) -> Affine:
        """Its function in evaluation, for `fuse` to fold into the layer before."""
        return Affine(*(value.detach() for value in self._in_evaluation()))

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.add(self.fuse(), x)

    def normalize_batch(
        self, c: Chunk, relu: bool = False, residual: Tensor | None = None
    ) -> Chunk:
        """Its function in training, with a sum with `[B, C, T]` and a ReLU in the same op."""
        valid = c.valid.flatten()
        added = None if residual is None else _frames(residual)
        y, mean, variance = ops.batch_norm(
            _frames(c.x), valid, self.weight, self.bias, self.eps, relu, added
        )
        with torch.no_grad():
            self.num_batches_tracked += 1
            count = valid.sum().clamp(min=2)
            unbiased = variance * count / (count - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return Chunk(y.unflatten(0, c.valid.shape).transpose(1, 2), c.valid)

    def _in_evaluation(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, momentum={self.momentum}"


def _frames(x: Tensor) -> Tensor:
    # [B, C, T] → [B · T, C]
    return x.transpose(1, 2).flatten(0, 1)
