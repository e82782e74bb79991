"""TACo, the augmentation of Easter2.0, arXiv:2205.14879."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from speechkit.errors import ComponentError
from speechkit_residuals.parts import chosen

FILLS = "noise", "min", "max", "mean"


@dataclass(frozen=True)
class Taco:
    """Tiling and corruption: replaces tiles of the features by noise or by one value.

    The time axis is cut into tiles of one random width of `min_frames` to `max_frames`. Each tile
    is replaced with probability `share`: by uniform noise over the utterance's range, or by its
    least, largest or mean value; "any" draws one of these for each tile. An utterance is augmented
    with `probability`. Shape: `[F, T]` → the same.
    """

    min_frames: int = 10
    max_frames: int = 100
    share: float = 0.2
    probability: float = 0.9
    fill: str = "any"

    domain: ClassVar[Literal["features"]] = "features"

    def __post_init__(self) -> None:
        chosen("augmentation taco", "fill", self.fill, (*FILLS, "any"))
        if not 1 <= self.min_frames <= self.max_frames:
            raise ComponentError(
                f"augmentation taco: tiles of {self.min_frames} to {self.max_frames} frames; give "
                "min_frames from 1 to max_frames"
            )

    def __call__(self, x: Tensor, length: int, generator: Generator) -> tuple[Tensor, int]:
        if torch.rand((), generator=generator) >= self.probability or not length:
            return x, length
        width = int(torch.randint(self.min_frames, self.max_frames + 1, (), generator=generator))
        y = x.clone()
        for start in range(0, length, width):
            if torch.rand((), generator=generator) < self.share:
                tile = slice(start, min(start + width, length))
                y[:, tile] = self._filling(x[:, :length], y[:, tile], generator)
        return y, length

    def _filling(self, x: Tensor, tile: Tensor, generator: Generator) -> Tensor:
        fill = self.fill
        if fill == "any":
            fill = FILLS[int(torch.randint(len(FILLS), (), generator=generator))]
        if fill == "noise":
            noise = torch.rand(tile.shape, generator=generator).to(x)
            return x.min() + (x.max() - x.min()) * noise
        value = {"min": x.min(), "max": x.max(), "mean": x.mean()}[fill]
        return value.expand_as(tile)
