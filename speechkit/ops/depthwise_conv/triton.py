"""The same in Triton for CUDA: forward and both gradients.

`kernels.py`, which imports Triton, is imported by the first call.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from speechkit.ops.gpu import launch, sums, tile, tiles, why_not
from speechkit.ops.native import sum_type


def unsupported(x: Tensor, weight: Tensor) -> str | None:
    """Why this implementation cannot take these tensors, or None."""
    return why_not(x)


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    stride: int,
    dilation: int,
    padding: tuple[int, int],
    valid: Tensor | None,
) -> Tensor:
    """Shapes as the public function."""
    y: Tensor = DepthwiseConv.apply(x, weight, valid, stride, dilation, padding)  # type: ignore[no-untyped-call]
    return y


class DepthwiseConv(torch.autograd.Function):
    """Forward and both gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        valid: Tensor | None,
        stride: int,
        dilation: int,
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, valid)
        ctx.around = stride, dilation, padding[0]
        span = dilation * (weight.shape[2] - 1) + 1
        frames_out = (x.shape[2] + sum(padding) - span) // stride + 1
        return _filtered(x, valid, weight, None, frames_out, False, *ctx.around)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, valid = ctx.saved_tensors
        dx = dw = None
        dy = dy.to(x.dtype)
        if ctx.needs_input_grad[0]:
            dx = _filtered(dy, None, weight, valid, x.shape[2], True, *ctx.around)
        if ctx.needs_input_grad[1]:
            dw = _correlated(x, valid, dy, weight, *ctx.around)
        return dx, dw, None, None, None, None


def _filtered(
    x: Tensor,
    valid: Tensor | None,
    weight: Tensor,
    written: Tensor | None,
    frames_out: int,
    transposed: bool,
    stride: int,
    dilation: int,
    left: int,
) -> Tensor:
    from speechkit.ops.depthwise_conv.kernels import filter_frames

    rows = x.transpose(1, 2).contiguous()
    batch, frames, channels = rows.shape
    y = rows.new_empty(batch, frames_out, channels)
    taps = weight[:, 0].T.to(sum_type(x.dtype)).contiguous()
    bt, bc = tile(frames_out, 32), tile(channels, 64)
    launch(
        filter_frames,
        (tiles(frames_out, bt), tiles(channels, bc), batch),
        rows,
        x_ptr=rows,
        valid_ptr=_flags(valid),
        taps_ptr=taps,
        y_ptr=y,
        written_ptr=_flags(written),
        frames=frames,
        frames_out=frames_out,
        left=left,
        C=channels,
        TAPS=len(taps),
        STRIDE=stride,
        DILATION=dilation,
        TRANSPOSED=transposed,
        SUMS=sums(x.dtype),
        BT=bt,
        BC=bc,
    )
    return y.transpose(1, 2)


def _correlated(
    x: Tensor,
    valid: Tensor | None,
    dy: Tensor,
    weight: Tensor,
    stride: int,
    dilation: int,
    left: int,
) -> Tensor:
    from speechkit.ops.depthwise_conv.kernels import correlate_frames

    rows, given = x.transpose(1, 2).contiguous(), dy.transpose(1, 2).contiguous()
    (batch, frames, channels), taps = rows.shape, weight.shape[2]
    dw = rows.new_empty(batch, taps, channels, dtype=sum_type(x.dtype))
    bt, bc = tile(given.shape[1], 32), tile(channels, 64)
    launch(
        correlate_frames,
        (taps, tiles(channels, bc), batch),
        rows,
        x_ptr=rows,
        valid_ptr=_flags(valid),
        dy_ptr=given,
        dw_ptr=dw,
        frames=frames,
        frames_out=given.shape[1],
        left=left,
        C=channels,
        TAPS=taps,
        STRIDE=stride,
        DILATION=dilation,
        SUMS=sums(x.dtype),
        BT=bt,
        BC=bc,
    )
    # rows of a batch are summed here, always in the same order, unlike atomic additions
    return dw.sum(0).T.unsqueeze(1).to(weight.dtype)


def _flags(valid: Tensor | None) -> Tensor | None:
    return None if valid is None else valid.contiguous().view(torch.uint8)
