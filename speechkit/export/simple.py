"""The forms of layers that every runtime computes alike, in place of those made for speed."""

import copy
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from speechkit.frontend.normalize import BLOCK_FRAMES, PCEN, Running
from speechkit.nn import (
    BatchNorm,
    Bias,
    Chunk,
    DenseConv,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    Serial,
    StreamLayer,
    Windowed,
)

M = TypeVar("M", bound=nn.Module)


def simplified(model: M) -> M:
    """A copy with batch norms folded away and plain convolutions."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, DepthwiseConv):
            layer.convolve = partial(_convolve, layer)  # type: ignore[method-assign]
            # its own forward runs the op instead, whose way with dilation torch.export fixes to
            # some lengths
            layer.forward = partial(Windowed.forward, layer)  # type: ignore[method-assign]
        if isinstance(layer, DenseConv) and layer.kernel == 1:
            layer.register_buffer("matrix", layer.weight.squeeze(2))
            layer.convolve = partial(_multiply, layer)  # type: ignore[method-assign]
        if isinstance(layer, Windowed) and type(layer).frames_out is Windowed.frames_out:
            layer.frames_out = partial(_frames_out, layer)  # type: ignore[method-assign]
        if isinstance(layer, Serial):
            _fold(layer)
    return model


def scanned(model: M) -> M:
    """The model itself, with loops in place of what carries statistics along a recording."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Running | PCEN):
                setattr(parent, name, Scanned(layer))
    return model


class Scanned(StreamLayer):
    """A layer that carries statistics along, run block by block in a loop that export knows.

    Shape: `[B, F, T]` → the same.
    """

    def __init__(self, layer: StreamLayer) -> None:
        super().__init__()
        self.layer = layer
        self.left = layer.left

    def forward(self, c: Chunk) -> Chunk:
        batch, features, frames = c.x.shape
        missing = -frames % BLOCK_FRAMES
        x = F.pad(c.masked.transpose(1, 2), (0, 0, 0, missing)).unflatten(1, (-1, BLOCK_FRAMES))
        valid = F.pad(c.valid, (0, missing)).unflatten(1, (-1, BLOCK_FRAMES))

        # a loop may not hand back what it was given, nor other strides: hence the copies
        def block(
            state: tuple[Tensor, ...], part: tuple[Tensor, Tensor]
        ) -> tuple[tuple[Tensor, ...], Tensor]:
            y, after = self.layer.step(Chunk(part[0].transpose(1, 2), part[1]), state)
            return tuple(map(_copy, after)), _copy(y.x.transpose(1, 2))

        start = self.layer.init_state(batch, features, c.x.dtype, c.x.device)
        blocks = x.transpose(0, 1), valid.transpose(0, 1)
        _, y = scan(block, tuple(map(_copy, start)), blocks)
        return Chunk(y.transpose(0, 1).flatten(1, 2)[:, :frames].transpose(1, 2), c.valid)


def _fold(layer: Serial) -> None:
    """Makes each batch norm part of the weights before it, and leaves its bias."""
    for (_, before), (name, norm) in pairwise(list(layer.named_children())):
        if isinstance(before, Pointwise | DenseConv) and isinstance(norm, BatchNorm):
            if getattr(before, "bias", None) is not None:
                continue
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            before.weight.mul_(scale.view(-1, *[1] * (before.weight.ndim - 1)))
            bias = Bias(len(scale)).requires_grad_(False)
            bias.bias.copy_(norm.bias - norm.running_mean * scale)
            setattr(layer, name, FrameWise(bias))


def _frames_out(layer: Windowed, frames: int) -> int:
    """`Windowed.frames_out` without a negative dividend, which ONNX rounds towards zero."""
    return (frames * layer.rate + layer.stride - 1) // layer.stride


def _convolve(layer: DepthwiseConv, window: Tensor) -> Tensor:
    """The layer's convolution in the one form that every runtime knows."""
    y = F.conv2d(
        window.unsqueeze(2),
        layer.weight.unsqueeze(2),
        stride=(1, layer.stride),
        dilation=(1, layer.dilation),
        groups=len(layer.weight),
    )
    return y.squeeze(2)


def _multiply(layer: DenseConv, window: Tensor) -> Tensor:
    """A dense kernel of 1 with its matrix as a table, which int8 looks for."""
    frames = window[:, :, :: layer.stride].transpose(1, 2)
    return F.linear(frames, layer.get_buffer("matrix")).transpose(1, 2)


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)
