"""Norms whose backward pass needs their output, not their input.

A 1×1 layer or an activation such as SiLU stores its input for its own backward pass. After such a
norm, that is the same tensor, so the norm itself stores one number per frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speechkit.errors import ComponentError
from speechkit.nn import Pointwise
from speechkit_norms.frame import LayerNorm, RMSNorm
from speechkit_norms.precision import wide

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class MSLayerNorm(nn.Module):
    """y = (x − μ) / √(σ² + eps) over the channels of each frame, without weight or bias.

    Backward, with r = 1 / √(σ² + eps): dx = r (dy − mean(dy) − y mean(dy y)). A 1×1 layer after it
    replaces weight and bias (`fold_affine`). Shape: x `[B, C, T]` → the same.
    Yang et al., arXiv:2406.16282.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        # an exported graph cannot contain a custom backward pass
        if not _learns(x):
            return _layer(frames, self.eps)[0].transpose(1, 2)
        y: Tensor = _MSLayerNorm.apply(frames, self.eps)  # type: ignore[no-untyped-call]
        return y.transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.normalize(x, self.eps)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"


class MSRMSNorm(nn.Module):
    """y = x / √(mean_c x² + eps) of each frame, without weight or bias.

    Backward, with r = 1 / √(mean_c x² + eps): dx = r (dy − y mean(dy y)). A 1×1 layer after it
    replaces the weight (`fold_affine`). Shape: x `[B, C, T]` → the same.
    Yang et al., arXiv:2406.16282.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        if not _learns(x):
            return _rms(frames, self.eps)[0].transpose(1, 2)
        y: Tensor = _MSRMSNorm.apply(frames, self.eps)  # type: ignore[no-untyped-call]
        return y.transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.normalize(x, self.eps, centred=False)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"


def fold_affine(
    norm: LayerNorm | RMSNorm, after: Pointwise
) -> tuple[MSLayerNorm | MSRMSNorm, Pointwise]:
    """A norm and the 1×1 layer after it, as a memory-sharing norm and a 1×1 layer.

    W' = W diag(weight), b' = b + W bias: the output is the same. Raises ComponentError for an
    RMSNorm that is partial or adds eps outside the root.
    """
    if isinstance(norm, RMSNorm) and (norm.eps_mode, norm.counted) != ("inside", len(norm.weight)):
        raise ComponentError("fold_affine takes an RMSNorm with p=1 and eps_mode=inside")
    c_out, channels = after.weight.shape
    kind = MSRMSNorm if isinstance(norm, RMSNorm) else MSLayerNorm
    folded = Pointwise(channels, c_out, bias=True).to(after.weight)
    assert folded.bias is not None
    with torch.no_grad():
        folded.weight.copy_(after.weight if norm.weight is None else after.weight * norm.weight)
        folded.bias.copy_(torch.zeros(c_out) if after.bias is None else after.bias)
        if norm.bias is not None:
            folded.bias.add_(after.weight @ norm.bias)
    return kind(channels, norm.eps), folded


class _MSLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y, rstd = _layer(x, eps)
        ctx.save_for_backward(y, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        y, rstd = ctx.saved_tensors
        g, normal = wide(dy), wide(y)
        through = g.mean(2, keepdim=True) + normal * (g * normal).mean(2, keepdim=True)
        return (rstd * (g - through)).to(y.dtype), None


class _MSRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y, rstd = _rms(x, eps)
        ctx.save_for_backward(y, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        y, rstd = ctx.saved_tensors
        g, normal = wide(dy), wide(y)
        through = normal * (g * normal).mean(2, keepdim=True)
        return (rstd * (g - through)).to(y.dtype), None


def _layer(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of frames `[B, T, C]`, and 1 / √(σ² + eps), `[B, T, 1]`."""
    y, _, rstd = torch.native_layer_norm(x, x.shape[2:], None, None, eps)
    return y, rstd


def _rms(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of frames `[B, T, C]`, and 1 / √(mean x² + eps), `[B, T, 1]`."""
    frames = wide(x)
    rstd = torch.rsqrt(frames.square().mean(2, keepdim=True) + eps)
    return (frames * rstd).to(x.dtype), rstd


def _learns(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad
