"""Smoothing: moves large values of some channels into the weights, so that int8 holds the rest."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.nn import DepthwiseConv, Pointwise, describes
from speechkit.nn.fuse import ROWS
from speechkit.probes import Examples
from speechkit.transforms import required
from speechkit_compression.outliers import INTEGER, largest, outlier_ratio


class PtqSmooth:
    """Divides the input x of 1×1 layers by s in each channel, and multiplies their weights by s.

        s_j = a_j^alpha / (max_o |W_oj|)^(1 − alpha), a_j = max |x_j| over valid frames
        w_j ← w_j / s_j,  W_oj ← W_oj · s_j

    x is the output of a depthwise convolution with the taps w, which take 1 / s. So no score
    changes, up to rounding. Layers behind anything else stay as they are. A channel that is always
    0 has s_j = 1. The report has max_j a_j / median_j a_j of each smoothed layer, before and after.
    Raises ConfigError for a net without such layers. Source: Xiao et al., SmoothQuant,
    arXiv:2211.10438; Pierro and Abreu, Mamba-PTQ, arXiv:2407.12397, report such channels in
    recurrent nets.
    """

    def __init__(self, alpha: float = 0.5) -> None:
        if not 0 <= alpha <= 1:
            raise ConfigError(f"transform ptq_smooth: alpha={alpha}; give a number from 0 to 1")
        self.alpha = alpha

    @torch.no_grad()
    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        found = largest(model, required(examples, "ptq_smooth"))
        made = copy.deepcopy(model)
        pairs = {name: pair for name, pair in _pairs(made) if name in found}
        if not pairs:
            raise ConfigError(
                "transform ptq_smooth: no 1×1 layer of this net is behind a depthwise convolution; "
                "give a net with separable blocks"
            )
        ratios: dict[str, dict[str, float]] = {}
        for name, (mixer, linear) in pairs.items():
            a = found[name]
            s = self._scales(a, linear.weight)
            mixer.weight.div_(s[:, None, None])
            linear.weight.mul_(s)
            ratios[name] = {"before": outlier_ratio(a).item(), "after": outlier_ratio(a / s).item()}
        return made, {"layers": ratios}

    def _scales(self, a: Tensor, weight: Tensor) -> Tensor:
        top = weight.abs().amax(0)
        s = a**self.alpha / top ** (1 - self.alpha)
        return torch.where((a > 0) & (top > 0), s, 1.0)


def _pairs(model: Model) -> Iterator[tuple[str, tuple[DepthwiseConv, Pointwise]]]:
    """The 1×1 layers behind a depthwise convolution, by name, with that convolution."""
    for name, row in model.named_modules():
        if type(row) not in ROWS or not f"{name}.".startswith(INTEGER):
            continue
        for (_, mixer), (own, linear) in pairwise(row.named_children()):
            if (
                isinstance(mixer, DepthwiseConv)
                and describes(mixer, "depthwise")
                and isinstance(linear, Pointwise)
                and describes(linear, "matrix")
            ):
                yield f"{name}.{own}", (mixer, linear)
