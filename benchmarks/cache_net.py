"""The streaming form of other packages: a step with caches as input and output, rows `[T, C]`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain import Plain, PlainBlock, SubBlock


class CacheSubBlock(nn.Module):
    """A causal sub-block: windows gathered, multiplied by the filters and summed; then a matrix.

    Batch norm is folded into the matrix. This is the fastest form for onnxruntime at 80 ms.
    """

    at: Tensor
    filters: Tensor
    matrix: Tensor
    bias: Tensor

    def __init__(self, layers: nn.Sequential, frames: int) -> None:
        super().__init__()
        *before, pointwise, norm = layers
        self.frames, self.keep, self.stride = frames, 0, 1
        for depthwise in before:
            assert isinstance(depthwise, nn.Conv1d)
            kernel, dilation = depthwise.kernel_size[0], depthwise.dilation[0]
            self.stride, self.keep = depthwise.stride[0], dilation * (kernel - 1)
            starts = torch.arange(0, frames, self.stride)
            self.register_buffer("at", starts[:, None] + dilation * torch.arange(kernel))
            self.register_buffer("filters", depthwise.weight[:, 0].T.contiguous())
        assert isinstance(pointwise, nn.Conv1d)
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.register_buffer("matrix", (pointwise.weight[:, :, 0].T * scale).contiguous())
        self.register_buffer("bias", norm.bias - norm.running_mean * scale)

    def forward(self, x: Tensor, caches: list[Tensor]) -> Tensor:
        """The rows after `x`; removes its cache from the front and appends the next one."""
        if self.keep:
            window = torch.cat([caches.pop(0), x])
            caches.append(window[self.frames :])
            x = (F.embedding(self.at, window) * self.filters).sum(1)
        return x @ self.matrix + self.bias


class CacheBlock(nn.Module):
    """The sub-blocks of a block, and its residual."""

    def __init__(self, block: PlainBlock, frames: int) -> None:
        super().__init__()
        self.body = nn.ModuleList()
        for sub_block in block.body:
            assert isinstance(sub_block, SubBlock)
            layer = CacheSubBlock(sub_block.layers, frames)
            self.body.append(layer)
            frames //= layer.stride
        self.frames = frames
        self.residual = None
        if block.residual is not None:
            self.residual = CacheSubBlock(block.residual, frames)

    def forward(self, x: Tensor, caches: list[Tensor]) -> Tensor:
        y = x
        for index, layer in enumerate(self.body):
            y = layer(torch.relu(y) if index else y, caches)
        if self.residual is not None:
            y = y + self.residual(x, caches)
        return torch.relu(y)


class CacheNet(nn.Module):
    """One step of a CTC net in evaluation: `(x [T, F], *caches)` → `(scores [T', n], *caches)`."""

    @torch.no_grad()
    def __init__(self, net: Plain, frames: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for plain in net.encoder:
            assert isinstance(plain, PlainBlock)
            block = CacheBlock(plain, frames)
            self.blocks.append(block)
            frames = block.frames
        self.head = net.head

    def caches(self) -> list[Tensor]:
        """The caches before the first frame."""
        layers = [layer for layer in self.modules() if isinstance(layer, CacheSubBlock)]
        return [torch.zeros(x.keep, x.filters.shape[1]) for x in layers if x.keep]

    def forward(self, x: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        left = list(caches)
        for block in self.blocks:
            x = block(x, left)
        return self.head(x).log_softmax(1), *left
