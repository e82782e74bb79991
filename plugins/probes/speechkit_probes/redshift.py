"""How simple the functions are that a net with random weights computes."""

import copy
import math
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model, build
from speechkit.nn import Chunk
from speechkit.probes import Examples
from speechkit_probes.numbers import numbers

ROWS = 64
"""How many points of the plane are computed at a time."""
LEVELS = 10
"""How many values the map has before it is compressed."""


def redshift(
    nets: int = 3, grid: int = 16, scales: str | float = "1 2 4 8"
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the frequency of the first logit of random nets over a plane of two utterances.

    For `nets` fresh nets of the model's config, whose matrices are multiplied by each of `scales`,
    the map is the first score over α x₁ + β x₂ with α, β from −1 to 1 on a `grid`; x₁, x₂ are the
    features of two random utterances, cut to the shorter one. For each scale:

        frequency  Σ |f| P(f) / Σ P(f) of the power P of the mirrored map without its mean, in
                   cycles over the plane
        bytes      the size of the map in ten levels, compressed by zlib

    `ratio` is the frequency at the last scale over that at the first: near 1 the net stays simple
    whatever the size of its weights. Norms that see the batch are in evaluation. Teney et al.,
    arXiv:2403.02241. ComponentError for fewer than two utterances.
    """
    factors = numbers(scales)
    if nets < 1 or grid < 4 or not factors or not all(0 < f < math.inf for f in factors):
        raise ComponentError(
            f"probe redshift: nets={nets}, grid={grid}, scales={scales!r}; give at least 1 net, a "
            "grid of 4 and scales above 0, such as '1 8'"
        )

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        one, other = _two(examples)
        values = torch.zeros(len(factors), 2, dtype=torch.float64)
        for seed in range(nets):
            fresh = build(model.config, seed).to(one.device).eval()
            fresh.frontend.load_state_dict(model.frontend.state_dict())
            for index, factor in enumerate(factors):
                surface = _surface(_scaled(fresh, factor), one, other, grid)
                values[index] += torch.stack([frequency(surface), compressed(surface)])
        frequencies, sizes = (values / nets).unbind(1)
        return {
            "scale": torch.tensor(factors),
            "frequency": frequencies,
            "bytes": sizes,
            "ratio": frequencies[-1] / frequencies[0],
        }

    return look


def frequency(surface: Tensor) -> Tensor:
    """The mean radial frequency of a map `[G, G]`, by power, in cycles over the plane.

    The map is mirrored, or its edges would dominate.
    """
    wide = torch.cat([surface, surface.flip(0)], 0)
    wide = torch.cat([wide, wide.flip(1)], 1).double()
    power = torch.fft.fft2(wide - wide.mean()).abs().square()
    at = torch.fft.fftfreq(len(wide), 1 / len(wide)).double() / 2
    radius = (at[:, None].square() + at.square()).sqrt()
    total: Tensor = power.sum()
    mean: Tensor = (radius * power).sum() / total.clamp(min=1e-30)
    return mean


def compressed(surface: Tensor) -> Tensor:
    """The bytes of a map in ten levels, compressed."""
    low, high = surface.min(), surface.max()
    levels = ((surface - low) / (high - low).clamp(min=1e-12) * (LEVELS - 1)).round()
    data = levels.to(torch.uint8).cpu().numpy().tobytes()
    return torch.tensor(float(len(zlib.compress(data, 9))), dtype=torch.float64)


def _two(examples: Examples) -> tuple[Tensor, Tensor]:
    """The features `[F, T]` of two random utterances, of one length."""
    if len(examples.utterances) < 2:
        raise ComponentError("probe redshift: 1 utterance; give at least 2")
    model = examples.model
    rows = [model.features(audio[None]).x[0] for audio in examples.clips(2)]
    frames = min(row.shape[1] for row in rows)
    one, other = (row[:, :frames] for row in rows)
    return one, other


def _scaled(model: Model, factor: float) -> Model:
    """A copy of the net whose matrices are multiplied by a factor."""
    made = copy.deepcopy(model)
    for name, weight in made.named_parameters():
        if weight.ndim > 1 and not name.startswith("frontend."):
            weight.mul_(factor)
    return made


def _surface(model: Model, one: Tensor, other: Tensor, grid: int) -> Tensor:
    """The first score over the plane, `[G, G]`; for scores of frames, the mean."""
    at = torch.linspace(-1, 1, grid, device=one.device)
    points = torch.cartesian_prod(at, at)
    values = []
    for some in points.split(ROWS):
        x = some[:, :1, None] * one + some[:, 1:, None] * other
        scores = model.score(Chunk.of(x)).scores
        values.append(scores[..., 0] if scores.ndim == 2 else scores[..., 0].mean(1))
    return torch.cat(values).view(grid, grid).cpu()
