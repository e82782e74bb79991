"""A front end that corrects the colour of a microphone with curves, which a net may predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.nn import AveragePool, Chunk, FrameWise, Pointwise, Serial
from speechkit.nn.stream import State, StreamLayer
from speechkit.plugins import registry
from speechkit_mixers.mean import DecayingMean

if TYPE_CHECKING:
    from typing import Any

    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

POOLS = "causal", "utterance", "none"
CURVES = "eq", "tone"
QUIETEST, LOUDEST = -16.0, 4.0
"""The log energies at both ends of the curve `tone`."""


def segments(u: Tensor, knots: int) -> Tensor:
    """clip(M u − m, 0, 1) for the segments m of M = knots − 1: `[…]` → `[…, M]`."""
    m = torch.arange(knots - 1, dtype=u.dtype, device=u.device)
    return ((knots - 1) * u[..., None] - m).clamp(0, 1)


class Tenth(nn.Module):
    """y = x / 10, since log energies are about ten."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.1 * x

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same as one instruction of a native program."""
        return program.scaled(x, 0.1)


class Predictor(Serial):
    """p = V ReLU(U m / 10 + c) + d of the mean m of the valid frames: of all, or of about the last
    `frames` frames, which decays.

    V and d start at 0. Shape: `[B, F, T]` → `[B, count, T]`, or `[B, count, 1]` of all.
    """

    self_initialized = ("predict",)

    def __init__(self, bands: int, count: int, hidden: int, pool: str, frames: float) -> None:
        predict = Pointwise(hidden, count, bias=True)
        for weight in predict.parameters():
            nn.init.zeros_(weight)
        super().__init__(
            pool=DecayingMean(frames) if pool == "causal" else AveragePool(),
            tenth=FrameWise(Tenth()),
            reduce=Pointwise(bands, hidden, bias=True),
            relu=FrameWise(nn.ReLU()),
            predict=predict,
        )

    def macs(self, frames: int) -> int:
        return sum(weight.numel() for weight in self.parameters() if weight.ndim > 1) * frames


class Curves(StreamLayer):
    """y = x + log S_eq(b / (F − 1)) + log S_tone(u), x the log energy of band b of F.

        S(u) = k_0 + Σ_m (k_{m+1} − k_m) clip(M u − m, 0, 1),  k = exp(p)

    The M + 1 = `knots` knots of a curve are evenly spaced over 0…1. `eq` is a curve over the bands,
    `tone` one over the level, u = (x + 16) / 20. p are weights that start at 0, or those of a
    `Predictor` with a pool; at p = 0, y = x. Shape: `[B, F, T]` → the same. Moran et al., CURL,
    arXiv:1911.13175.
    """

    places: Tensor

    def __init__(
        self,
        bands: int,
        curves: tuple[str, ...],
        knots: int,
        hidden: int,
        pool: str,
        frames: float = 300,
    ) -> None:
        super().__init__()
        self.curves, self.knots = curves, knots
        places = segments(torch.linspace(0, 1, bands, dtype=torch.float64), knots).float()
        self.register_buffer("places", places, persistent=False)
        count = len(curves) * knots
        self.p: nn.Parameter | Predictor
        if pool == "none":
            self.p = nn.Parameter(torch.zeros(count))
        else:
            self.p = Predictor(bands, count, hidden, pool, frames)
            self.left, self.right = self.p.left, self.p.right

    def forward(self, c: Chunk) -> Chunk:
        p = self.p(c).x if isinstance(self.p, Predictor) else self.p[None, :, None]
        return self.corrected(c, p)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        if isinstance(self.p, Predictor):
            return self.p.init_state(batch, c_in, dtype, device)
        return ()

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        if not isinstance(self.p, Predictor):
            return self.forward(c), state
        p, state = self.p.step(c, state)
        return self.corrected(c, p.x), state

    def corrected(self, c: Chunk, p: Tensor) -> Chunk:
        """y of curves p `[B, curves · knots, T]`; a batch or a time of 1 counts for all."""
        x = y = c.x.transpose(1, 2)
        for name, k in zip(self.curves, p.exp().transpose(1, 2).split(self.knots, 2), strict=True):
            if name == "eq":
                gain = k[..., :1] + k.diff(dim=2) @ self.places.to(k.dtype).T
            else:
                inside = segments((x - QUIETEST) / (LOUDEST - QUIETEST), self.knots)
                gain = k[..., :1] + (inside * k.diff(dim=2)[:, :, None]).sum(3)
            y = y + gain.log()
        return Chunk(y.transpose(1, 2), c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        if self.curves != ("eq",):
            program.refuse("no native curve over the level")
        # S = matrix k; a native program has no sum of differences
        ends = torch.eye(self.knots)
        matrix = ends[:1] + self.places.cpu() @ ends.diff(dim=0)
        if not isinstance(self.p, Predictor):
            shift = (matrix.double() @ self.p.detach().double().cpu().exp()).log()
            return program.affine(x, torch.ones(x.channels), shift)
        k = program.expression("exp(x)", {}, program.add(self.p, x))
        gain = program.expression("log(x)", {}, program.matrix(k, matrix))
        return program.added(x, gain)

    def macs(self, frames: int) -> int:
        net = self.p.macs(frames) if isinstance(self.p, Predictor) else 0
        return net + len(self.curves) * self.places.numel() * frames


def curve_eq(
    sample_rate: int,
    frontend: str | Spec = "log_mel:normalize=none",
    normalize: str | Spec = "running",
    knots: int = 16,
    curves: str = "eq",
    hidden: int = 32,
    pool: str = "causal",
    frames: float = 300,
) -> Serial:
    """A front end of log energies, corrected by `Curves`, and then normalised.

    `curves` are "eq", "tone" or "eq+tone". `pool` says what predicts them: the mean of about the
    last `frames` frames, "causal"; the mean of the utterance, "utterance"; or nothing, "none", so
    that one curve is learned for all.
    """
    names = tuple(curves.split("+"))
    if pool not in POOLS or not set(names) <= set(CURVES) or len(set(names)) < len(names):
        raise ComponentError(
            f"frontend curve_eq: pool={pool!r}, curves={curves!r}; give pool "
            f"{' or '.join(POOLS)}, and curves eq, tone or eq+tone"
        )
    if knots < 2 or hidden < 1 or frames <= 0:
        raise ComponentError(
            f"frontend curve_eq: knots={knots}, hidden={hidden}, frames={frames}; give at least 2 "
            "knots and 1 unit, and more than 0 frames"
        )
    features = registry().build("frontend", frontend, sample_rate)
    bands = features.channels_out(1)
    return Serial(
        frontend=features,
        curves=Curves(bands, names, knots, hidden, pool, frames),
        normalize=registry().build("normalizer", normalize, bands),
    )
