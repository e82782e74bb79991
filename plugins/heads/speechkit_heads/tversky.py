"""Scores that are similarities to prototypes: features that both have, or only one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.nn import FrameWise, PooledHead
from speechkit.plugins import registry

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

EPSILON = 1e-6


class Tversky(nn.Module):
    """The similarity of each frame x to prototypes p_m, by a bank of features f_k.

        a_k = f_k · x,  b_k = f_k · p_m
        common = Σ_k max(a_k, 0) max(b_k, 0)
        only_x = Σ_k max(a_k, 0) [b_k ≤ 0]
        only_p = Σ_k [a_k ≤ 0] max(b_k, 0)
        y_m = theta · common − alpha · only_x − beta · only_p

    With `ratio` y_m = common / (common + alpha · only_x + beta · only_p + 1), which is from 0 to 1.
    With `normalize` x and p_m are divided by their lengths, √(Σ_c x_c² + 1e-6). theta begins as 1,
    alpha and beta as 0.5, `bank` `[K, C]` and `prototypes` `[M, C]` with U(−1, 1). Shape:
    `[B, C, T]` → `[B, M, T]`. Doumbouya et al., arXiv:2506.11035.
    """

    undecayed = "theta", "alpha", "beta"

    def __init__(
        self, channels: int, prototypes: int, features: int, ratio: bool, normalize: bool
    ) -> None:
        super().__init__()
        self.ratio, self.normalize = ratio, normalize
        self.bank = nn.Parameter(torch.empty(features, channels).uniform_(-1, 1))
        self.prototypes = nn.Parameter(torch.empty(prototypes, channels).uniform_(-1, 1))
        self.theta = None if ratio else nn.Parameter(torch.tensor(1.0))
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.beta = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        a = self._scaled(x.transpose(1, 2)) @ self.bank.T
        present, absent = a.relu(), (a <= 0).to(a.dtype)
        its, lacking = self._of_prototypes()
        only_x, only_p = present @ lacking.T, absent @ its.T
        common, apart = present @ its.T, self.alpha * only_x + self.beta * only_p
        y: Tensor = (
            common / (common + apart + 1) if self.theta is None else self.theta * common - apart
        )
        return y.transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        if self.normalize:
            # by the root of the mean of squares, not of their sum
            mean = program.normalize(x, EPSILON / x.channels, centred=False)
            x = program.scaled(mean, x.channels**-0.5)
        a = program.matrix(x, self.bank)
        present = program.expression("relu(x)", {}, a)
        absent = program.expression("where(x > 0, 0, 1)", {}, a)
        its, lacking = self._of_prototypes()
        common, only_x = program.matrix(present, its), program.matrix(present, lacking)
        apart = program.added(
            program.scaled(only_x, self.alpha), program.matrix(absent, self.beta * its)
        )
        if self.theta is None:
            return program.expression("a / (a + b + 1)", {}, common, apart)
        return program.expression("a - b", {}, program.scaled(common, self.theta), apart)

    def macs(self, frames: int) -> int:
        """Those of the frames; the features of the prototypes are computed once."""
        return (self.bank.numel() + 3 * len(self.prototypes) * len(self.bank)) * frames

    def _of_prototypes(self) -> tuple[Tensor, Tensor]:
        """max(b, 0) and [b ≤ 0], each `[M, K]`."""
        b = self._scaled(self.prototypes) @ self.bank.T
        return b.relu(), (b <= 0).to(b.dtype)

    def _scaled(self, rows: Tensor) -> Tensor:
        if not self.normalize:
            return rows
        return rows / (rows.square().sum(-1, keepdim=True) + EPSILON).sqrt()


def tversky_frame(
    channels: int,
    labels: int,
    features: int | None = None,
    ratio: bool = False,
    normalize: bool = True,
) -> FrameWise:
    """`Tversky` with a prototype for each label: logits at every frame, `[B, labels, T]`.

    There are 4 · labels features by default.
    """
    features = 4 * labels if features is None else features
    if features < 1:
        raise ComponentError(f"head tversky: features={features}; give 1 or more")
    return FrameWise(Tversky(channels, labels, features, ratio, normalize), labels)


def tversky(
    channels: int,
    labels: int,
    features: int | None = None,
    ratio: bool = False,
    normalize: bool = True,
    pool: Spec | str = "average",
) -> PooledHead:
    """`tversky_frame` of an utterance's pooled frames: logits `[B, labels, 1]`."""
    linear = tversky_frame(channels, labels, features, ratio, normalize)
    return PooledHead(registry().build("pool", pool, channels), linear)
