"""Batch normalisation with the statistics of all processes of a run."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speechkit.nn.collectives import gather
from speechkit.nn.frame import BatchNorm
from speechkit.nn.stream import Chunk


class SyncBatchNorm(BatchNorm):
    """BatchNorm whose μ and σ² in training are those of the valid frames of all processes.

    All processes must call it the same number of times. Shape: `[B, C, T]` → the same.
    """

    def normalize_batch(
        self, c: Chunk, relu: bool = False, residual: Tensor | None = None
    ) -> Chunk:
        x = c.masked.transpose(1, 2)
        y, mean, variance, count = _SyncBatchNorm.apply(  # type: ignore[no-untyped-call]
            x, c.valid[:, :, None], self.weight, self.bias, self.eps
        )
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        y = y.transpose(1, 2)
        if residual is not None:
            y = y + torch.where(c.valid[:, None], residual, 0)
        return Chunk(torch.relu(y) if relu else y, c.valid)


def sync_batch_norms(model: nn.Module) -> None:
    """Replaces each BatchNorm of a model by a SyncBatchNorm with the same parameters and
    statistics."""
    for module in model.modules():
        if type(module) is BatchNorm:
            # only the class changes, so names, parameters and other references stay valid
            module.__class__ = SyncBatchNorm


class _SyncBatchNorm(torch.autograd.Function):
    """With s = weight / sqrt(σ² + eps) and x̂ = (x − μ) / sqrt(σ² + eps), over the valid frames:
    dx = s · (dy − (Σ dy + x̂ Σ dy x̂) / n), with sums over the frames of all processes.

    The gradients of weight and bias are this process's own, which DDP and FSDP add up.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, valid: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = x.to(weight.dtype)
        real = valid.to(weight.dtype)
        n = real.sum()
        mean = x.sum((0, 1)) / n.clamp(min=1)
        squares = ((x - mean).square() * real).sum((0, 1))
        # Chan et al., 1983: exact where sums of x² would cancel
        parts = gather(torch.cat([n[None], mean, squares]))
        ns, means, squares = parts[:, :1], *parts[:, 1:].chunk(2, 1)
        count = ns.sum()
        share = ns / count.clamp(min=1)
        mean = (share * means).sum(0)
        variance = squares.sum(0) / count.clamp(min=1) + (share * (means - mean).square()).sum(0)
        rstd = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, real, mean, rstd, weight, count)
        ctx.mark_non_differentiable(mean, variance, count)
        y = torch.addcmul(bias, x - mean, rstd * weight) * real
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        x, real, mean, rstd, weight, count = ctx.saved_tensors
        dy = dy.to(weight.dtype) * real
        normal = (x - mean) * rstd
        d_bias, d_weight = dy.sum((0, 1)), (dy * normal).sum((0, 1))
        all_bias, all_weight = gather(torch.cat([d_bias, d_weight])).sum(0).chunk(2)
        through = torch.addcmul(all_bias, normal, all_weight) / count.clamp(min=1)
        return (dy - through) * (rstd * weight) * real, None, d_weight, d_bias, None
