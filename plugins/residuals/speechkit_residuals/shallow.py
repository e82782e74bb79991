"""Stacks made shallow: blocks side by side, or their outputs mixed."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Add, Chunk, Residual, Serial, StreamLayer
from speechkit_residuals.linked import Linked
from speechkit_residuals.parts import chosen, same_width, widths


class Excess(nn.Module):
    """y = body − shortcut: what a residual block adds."""

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return body - shortcut


def parallel_shallow(blocks: list[StreamLayer]) -> StreamLayer:
    """Each run of residual blocks of one width side by side: y = x + Σ_b (block_b(x) − x).

    It is the first order of (I + F_n) … (I + F_1), with the same parameters and the look-ahead of
    one block instead of all. Other blocks stay in a row. Bermeitinger et al., arXiv:2309.08414.
    """
    return Serial(*(_side_by_side(group) for group in same_width("parallel_shallow", blocks)))


def shallow(model: Model) -> Model:
    """A copy of a trained model of serial blocks with those side by side that can be.

    Its scores differ: train it on.
    """
    if model.config.stack != Spec("serial") or not isinstance(model.encoder, Serial):
        raise ComponentError(f"shallow: a model of stack {model.config.stack}; give one of serial")
    made = copy.deepcopy(model)
    made.config = replace(model.config, stack="parallel_shallow")
    assert isinstance(made.encoder, Serial)
    made.encoder = parallel_shallow(list(made.encoder))
    return made


def _side_by_side(blocks: list[StreamLayer]) -> StreamLayer:
    first, *rest = blocks
    total = first
    for block in rest:
        total = Residual(Residual(block, StreamLayer(), Excess()), total, Add())
    return total


class LayerMix(nn.Module):
    """y_i = Σ_j W_ij x_j: each target's own mix of the sources, without a norm or a bias.

    W is at first 1 for the last source ("original"), for the sources from the last to the first in
    turn ("gca"), or 1 / sources ("uniform"). Shape: a list of `[B, C, T]` → another; W `[targets,
    sources]`. arXiv:2405.08570.
    """

    def __init__(self, sources: int, targets: int = 1, init: str = "original") -> None:
        super().__init__()
        chosen("layer_mix", "init", init, ("original", "gca", "uniform"))
        if init == "gca" and targets > sources:
            raise ComponentError(f"layer_mix: gca of {sources} sources for {targets} targets")
        weight = torch.full((targets, sources), 1 / sources if init == "uniform" else 0.0)
        for target in range(targets if init != "uniform" else 0):
            weight[target, -1 - (target if init == "gca" else 0)] = 1.0
        self.weight = nn.Parameter(weight)

    def forward(self, sources: list[Tensor]) -> list[Tensor]:
        stacked = torch.stack([x.transpose(1, 2) for x in sources], dim=-1)
        return list((stacked @ self.weight.t()).movedim(-1, 0).transpose(2, 3).unbind())


class MixedStack(Linked):
    """y = Σ_j w_j h_j over the outputs of all blocks that have the last one's width."""

    keeps_input = False

    def __init__(self, blocks: list[StreamLayer], init: str) -> None:
        super().__init__(blocks)
        channels = widths("layer_mix", blocks)
        self.sources = [j for j, width in enumerate(channels[:-1]) if width == channels[-1]]
        self.mix = LayerMix(len(self.sources) + 1, 1, init)

    def out_of(self, index: int, y: Chunk, history: list[Chunk]) -> Tensor:
        if index < self.count - 1:
            return y.x
        mixed: Tensor = self.mix([*(history[j].x for j in self.sources), y.x])[0]
        return mixed


def layer_mix(blocks: list[StreamLayer], init: str = "original") -> MixedStack:
    return MixedStack(blocks, init)
