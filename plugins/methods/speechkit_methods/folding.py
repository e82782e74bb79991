"""Space folding: paths on which a net's units turn on and off and back again."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, Output, evaluating
from speechkit.nn import Chunk, StreamLayer, Taps
from speechkit.probes import Examples
from speechkit.probes.codes import activations, codes, codes_between, path
from speechkit.train import Method

ROWS = 64
"""The most points that the net computes at a time."""


def walk(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Distances Σ |c_i − c_1| of each point's code from the first, and Σ |c_i − c_{i−1}| of a path.

    Shape: codes `[..., P, N]` of P points; distances `[..., P]`, length `[...]`.
    """
    away = (codes - codes[..., :1, :]).abs().sum(-1)
    return away, codes.diff(dim=-2).abs().sum((-2, -1))


def folding(away: Tensor, length: Tensor) -> Tensor:
    """χ = 1 − max_i away_i / length, and 0 where the length is 0. Shape: as from `walk`."""
    ratio = away.amax(-1) / length.clamp(min=torch.finfo(length.dtype).tiny)
    return torch.where(length > 0, 1 - ratio, 0)


def space_folding(
    pairs: int = 16, points: int = 101, depth: int = 0
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: χ of straight paths from the features of one utterance to those of another.

    A code has a bit for each unit and frame: 1 if an activation's input is above 0. χ is 1 − the
    greatest distance from the start / the length of the path, in bits that differ: 0 for a net of
    one hidden layer, and above 0 where a path folds back. `chi` is the mean over `pairs` random
    pairs, `LAYER/chi` that of one layer's codes, `flips` the mean length. `chi_same` and
    `chi_other` are the means over pairs with the same label and with two. A path has `points`
    points, and is as long as the shorter utterance. With `depth`, intervals are halved up to
    `depth` times until their ends differ in at most one bit. Lewandowski et al., arXiv:2502.09954
    and 2503.08502; halving intervals is ours.

    Raises ComponentError for fewer than two utterances, and for a model without activations.
    """
    if pairs < 1 or points < 2 or depth < 0:
        raise ComponentError(
            f"probe space_folding: pairs={pairs}, points={points}, depth={depth}; give at least 1 "
            "pair, 2 points and a depth of 0"
        )

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        layers, count = activations(model), len(examples.utterances)
        if not layers or count < 2:
            raise ComponentError(
                f"probe space_folding: {len(layers)} activations, {count} utterances; give a model "
                "with activations, and two utterances"
            )
        chance = torch.Generator().manual_seed(examples.seed)
        drawn = [torch.randperm(count, generator=chance)[:2].tolist() for _ in range(pairs)]
        features = _rows(examples, {index for pair in drawn for index in pair})
        rows: dict[str, list[Tensor]] = {}
        for first, second in drawn:
            labels = {examples.utterances[index].label for index in (first, second)}
            found = _along(model, features[first], features[second], points, depth)
            if None not in labels:
                found["chi_same" if len(labels) == 1 else "chi_other"] = found["chi"]
            for name, value in found.items():
                rows.setdefault(name, []).append(value)
        return {name: torch.stack(values).mean() for name, values in rows.items()}

    return look


def _rows(examples: Examples, wanted: set[int]) -> dict[int, Tensor]:
    """The features `[1, F, T]` of some utterances, without padding."""
    found = {}
    for batch, features in examples:
        for row, index in enumerate(batch.indices):
            if index in wanted:
                found[index] = features.x[row, None, :, : int(features.lengths[row])]
    return found


def _along(
    model: Model,
    one: Tensor,
    other: Tensor,
    points: int,
    depth: int,
) -> dict[str, Tensor]:
    """χ of the path between two utterances, that of each layer, and the length."""
    frames = min(one.shape[2], other.shape[2])
    one, other = one[:, :, :frames], other[:, :, :frames]
    sizes: dict[str, int] = {}

    def along(at: Tensor) -> Tensor:
        parts = []
        for some in at.split(ROWS):
            found = codes(model, Chunk.of(path(one, other, some)[0]))
            sizes.update({name: c.x[0].numel() for name, c in found.items()})
            parts.append(torch.cat([c.x.flatten(1) for c in found.values()], dim=1))
        return torch.cat(parts)

    bits = codes_between(along, points, depth)[1].double()
    walks = [walk(part) for part in bits.split(list(sizes.values()), dim=1)]
    found = {f"{name}/chi": folding(*one) for name, one in zip(sizes, walks, strict=True)}
    away, length = walk(bits)
    return {"chi": folding(away, length), "flips": length, **found}


@dataclass
class FoldingReg(Method):
    """Adds −weight · χ of soft codes σ(z / tau), z the inputs of the activations.

    The codes are those of `points` points of the straight path between the features of two
    utterances, in evaluation: row i of a batch of B and row i + B/2. As tau goes to 0, χ goes to
    that of the probe `space_folding`. The net computes B/2 · points rows more in each step.
    The regulariser is ours, after an idea of Lewandowski et al., arXiv:2503.08502.

    Raises TrainingError for a model without activations.
    """

    weight: float = 1.0
    tau: float = 0.1
    points: int = 8
    model: Model = field(init=False, repr=False)
    layers: dict[str, StreamLayer] = field(init=False, repr=False)
    wants_features = True

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.tau > 0 and self.points >= 3):
            raise ComponentError(
                f"method folding_reg: weight={self.weight}, tau={self.tau}, points={self.points}; "
                "give a weight from 0 up, a tau above 0 and at least 3 points"
            )

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Finds the activations."""
        self.model, self.layers = model, activations(model)
        if not self.layers:
            raise TrainingError("method folding_reg: the model has no activation; leave it out")

    def extra_loss(self, batch: Batch, output: Output, *features: Any) -> Tensor | None:
        """−weight · χ of the path on which each utterance is an end, `[B]`."""
        (given,) = features
        half = len(given.x) // 2
        if not self.weight or not half:
            return None
        first, second = given.x[:half], given.x[half : 2 * half]
        both = given.valid[:half] & given.valid[half : 2 * half]
        chi = self.chi(first, second, both)
        unpaired = chi.new_zeros(len(given.x) % 2)
        return -self.weight * torch.cat([chi, chi, unpaired])

    def chi(self, start: Tensor, end: Tensor, valid: Tensor) -> Tensor:
        """χ `[B]` of soft codes from features `[B, F, T]` to others; `valid` `[B, T]` in both."""
        at = torch.linspace(0, 1, self.points)
        x = path(start, end, at).flatten(0, 1)
        with evaluating(self.model), Taps(self.layers) as taps:
            self.model.score(Chunk(x, valid.repeat_interleave(self.points, 0)))
        walks = []
        for call in taps.take():
            z = Chunk(torch.sigmoid(call.args[0].x / self.tau), call.args[0].valid)
            walks.append(walk(z.masked.flatten(1).unflatten(0, (-1, self.points))))
        away, lengths = zip(*walks, strict=True)
        return folding(torch.stack(away).sum(0), torch.stack(lengths).sum(0))
