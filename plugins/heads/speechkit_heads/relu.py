"""Scores that are ReLUs, which may all be 0."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from speechkit.component import Spec, did_you_mean
from speechkit.errors import ComponentError
from speechkit.nn import Elementwise, FrameWise, Pointwise, PooledHead, Serial
from speechkit.plugins import registry

LEAST = 1e-7
"""The least eps: ONNX Runtime takes a smaller one for 0, whose logarithm is infinite."""


class LogReLU(Elementwise):
    """s = ln(max(o, 0) + eps) + leak · min(o, 0), with o = weighs · x.

    `weighs` is 1, or 0 for channels whose input has no effect: s is then ln(eps). Shape:
    `[B, C, T]` → the same.
    """

    expression = "log(max(weighs * x, 0) + eps) + leak * min(weighs * x, 0)"
    weighs: Tensor

    def __init__(self, weighs: Tensor, eps: float, leak: float) -> None:
        super().__init__()
        self.eps, self.leak = eps, leak
        self.register_buffer("weighs", weighs, persistent=False)


def relu(
    channels: int,
    labels: int,
    names: Sequence[str],
    reject: str | None = None,
    eps: float = 1.0,
    leak: float = 0.01,
    pool: Spec | str = "average",
) -> PooledHead:
    """ln(f + eps) as logits, so that probabilities are p_k = (f_k + eps) / Σ_j (f_j + eps).

    f = max(o, 0) are the scores of the paper, o = W pool(x) + b, and cross entropy is −ln p_y. The
    label `reject` has no weights: its o is 0, so it is the best label where no other has o > 0. A
    label with o < 0 has no gradient in the paper; here its logit has the slope `leak`. Shape:
    `[B, C, T]` → `[B, labels, 1]`. Agarap, arXiv:1803.08375; `reject` and `leak` are ours.

    Raises ComponentError for a `reject` that is no label, eps < LEAST or leak < 0.
    """
    if reject is not None and reject not in names:
        raise ComponentError(f"head relu: no label {reject!r}. {did_you_mean(reject, names)}")
    if not LEAST <= eps < math.inf or not 0 <= leak < math.inf:
        raise ComponentError(
            f"head relu: eps={eps}, leak={leak}; give eps from {LEAST:g} and leak from 0 up"
        )
    weighs = torch.tensor([float(name != reject) for name in names])
    return PooledHead(
        registry().build("pool", pool, channels),
        Serial(
            linear=Pointwise(channels, labels, bias=True),
            relu=FrameWise(LogReLU(weighs, eps, leak)),
        ),
    )
