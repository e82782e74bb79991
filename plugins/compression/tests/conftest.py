"""Nets with channels that are far larger than the others, and with blocks that do nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.models import Net

PLANTED = {3: 60.0, 7: 40.0}
"""Channels that are made larger, and how many times."""


@pytest.fixture
def wide(nets: dict[str, Net]) -> Callable[..., sk.Model]:
    """`wide(planted=True)` is a net of 64 channels. Where planted, the PLANTED channels of each
    depthwise output are larger, and their weights behind it smaller, so that no score differs."""
    blocks = (
        sk.Block(channels=64, kernel=5, stride=2),
        sk.Block(channels=64, kernel=5, residual=True, copies=2),
        sk.Block(channels=64, kernel=1, separable=False),
    )

    @torch.no_grad()
    def build(planted: bool = True) -> sk.Model:
        config = replace(
            nets["clip"],
            blocks=blocks,
            frontend="mfcc:n_mfcc=16,n_mels=16",
            labels=tuple("abcdefgh"),
        )
        model = sk.build(config, 1).eval()
        named = dict(model.named_parameters())
        for name in named if planted else ():
            if name.endswith("mixer.weight"):
                for channel, factor in PLANTED.items():
                    named[name][channel] *= factor
                    named[name.replace("mixer", "channel")][:, channel] /= factor
        return model

    return build


@pytest.fixture
def planted() -> Callable[[sk.Model, int], None]:
    """`planted(model, index)`: the body of a block becomes 0, and its shortcut the identity on what
    a ReLU returns."""

    @torch.no_grad()
    def plant(model: sk.Model, index: int) -> None:
        block: Any = model.encoder.get_submodule(str(index))
        for norm in (block.sum.body[-1].norm, block.sum.shortcut.norm):
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
            norm.bias.zero_()
            norm.weight.fill_(float(norm is block.sum.shortcut.norm))
        block.sum.shortcut.channel.weight.copy_(torch.eye(len(norm.bias)))

    return plant
