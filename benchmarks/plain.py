"""The nets in plain torch on contiguous `[B, C, T]`, with NeMo's order of layers."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from speechkit import Block
from speechkit.models import Model

N = TypeVar("N", bound=nn.Module)


class SubBlock(nn.Module):
    """Depthwise convolution, 1×1 convolution and batch norm, or one dense convolution and norm."""

    def __init__(self, c_in: int, c_out: int, block: Block) -> None:
        super().__init__()
        kernel = block.kernels[0]
        padding = block.dilation * (kernel - 1) // 2
        shape = kernel, block.stride, padding, block.dilation
        if block.separable:
            depthwise = nn.Conv1d(c_in, c_in, *shape, groups=c_in, bias=False)
            convolutions = [depthwise, nn.Conv1d(c_in, c_out, 1, bias=False)]
        else:
            convolutions = [nn.Conv1d(c_in, c_out, *shape, bias=False)]
        self.layers = nn.Sequential(*convolutions, nn.BatchNorm1d(c_out, eps=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class PlainBlock(nn.Module):
    """Sub-blocks with ReLU after each; the block's projected input is added before the last one."""

    def __init__(self, c_in: int, block: Block) -> None:
        super().__init__()
        c_out = block.channels
        widths = [c_in, *[c_out] * block.repeat]
        self.body = nn.ModuleList(SubBlock(width, c_out, block) for width in widths[:-1])
        self.residual = None
        if block.residual:
            norm = nn.BatchNorm1d(c_out, eps=1e-3)
            self.residual = nn.Sequential(nn.Conv1d(c_in, c_out, 1, bias=False), norm)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index, layer in enumerate(self.body):
            y = layer(torch.relu(y) if index else y)
        if self.residual is not None:
            y = y + self.residual(x)
        return torch.relu(y)


class Plain(nn.Module):
    """Features `[B, F, T]` to CTC log-probabilities `[B, T', n]` or a clip's logits `[B, n]`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        blocks, width = [], model.frontend.channels_out(1)
        for block, _ in model.config.rows():
            blocks.append(PlainBlock(width, block))
            width = block.channels
        self.encoder = nn.Sequential(*blocks)
        self.per_clip = model.per_clip
        self.head = nn.Linear(width, len(model.labels) + (not model.per_clip))

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x)
        if self.per_clip:
            logits: Tensor = self.head(y.mean(2))
            return logits
        log_probs: Tensor = self.head(y.transpose(1, 2)).log_softmax(2)
        return log_probs


def plain_net(model: Model) -> Plain:
    """The plain net of a model, with its weights."""
    return copy_weights(model, Plain(model)).train(model.training)


@torch.no_grad()
def copy_weights(model: Model, net: N) -> N:
    """Loads the model's weights into a net with the same order of weights."""
    own = [x for name, x in model.state_dict().items() if not name.startswith("frontend.")]
    for given, value in zip(net.state_dict().values(), own, strict=True):
        given.copy_(value.view_as(given))
    return net
