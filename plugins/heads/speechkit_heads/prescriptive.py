"""Choosing an action for an utterance from a log of actions and what each of them cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechkit.component import Spec, did_you_mean
from speechkit.data import Batch, Utterance
from speechkit.errors import ComponentError, ManifestError
from speechkit.models import Output
from speechkit.nn import Affine, FrameWise, Pointwise, PooledHead, Serial
from speechkit.plugins import registry
from speechkit.tasks.clip import Classification

NEVER = -1e4
"""The score of a forbidden action in evaluation, a number that float16 has."""


class Forbidden(nn.Module):
    """In evaluation the score of each forbidden channel is NEVER; in training nothing changes.

    Shape: x `[B, C, T]` → the same; forbidden `[C]` bool.
    """

    forbidden: Tensor

    def __init__(self, forbidden: Tensor) -> None:
        super().__init__()
        self.register_buffer("forbidden", forbidden)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else torch.where(self.forbidden[:, None], NEVER, x)

    def fuse(self) -> Affine:
        """The same in evaluation."""
        return Affine((~self.forbidden).float(), NEVER * self.forbidden)


def prescriptive(
    channels: int,
    labels: int,
    names: Sequence[str],
    hidden: int = 32,
    forbid: str = "",
    pool: Spec | str = "average",
) -> PooledHead:
    """Scores −f of each action, W₂ relu(W₁ pool(x) + b₁) + b₂, where f is its predicted cost.

    The best score is the action to take. `forbid` names actions, with spaces between them, that are
    never taken, though they may be in the training data. Shape: `[B, C, T]` → `[B, labels, 1]`.
    Raises ComponentError for an unknown action in `forbid`, and if all are forbidden.
    """
    unknown = [name for name in forbid.split() if name not in names]
    if unknown or len({*forbid.split()}) == labels:
        hint = did_you_mean(unknown[0], names) if unknown else "Leave one action"
        raise ComponentError(f"prescriptive: forbid={forbid!r} of {labels} actions. {hint}")
    layers = Serial(
        first=Pointwise(channels, hidden, bias=True),
        relu=FrameWise(nn.ReLU()),
        second=Pointwise(hidden, labels, bias=True),
    )
    if forbid:
        given = torch.tensor([name in forbid.split() for name in names])
        layers = Serial(net=layers, rule=FrameWise(Forbidden(given)))
    return PooledHead(registry().build("pool", pool, channels), layers)


@dataclass(frozen=True)
class PrescriptiveLoss:
    """mu · Σ_a π_a ĉ_a + (1 − mu) · (c − f_z)², for an action z that was taken and its cost c.

    π = softmax(−f / temperature) is the policy. ĉ_z = c, and ĉ_a = f_a for the other actions,
    without a gradient: nobody knows what they would have cost. Shape: scores `[B, labels]`, which
    are −f; targets `[B, 2]`, z and c. The objective is that of prescriptive trees and networks, Sun
    & Tsiourvas, arXiv:2306.00651, as we know it from a description; the softmax is ours.
    """

    mu: float = 0.5
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not (0 <= self.mu <= 1 and self.temperature > 0):
            raise ComponentError(
                f"loss prescriptive: mu={self.mu}, temperature={self.temperature}; give a mu from "
                "0 to 1 and a temperature above 0"
            )

    def __call__(
        self, scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        f = -scores.to(torch.promote_types(scores.dtype, torch.float32))
        taken, cost = targets[:, :1].long(), targets[:, 1:2].to(f.dtype)
        known = f.detach().scatter(1, taken, cost)
        policy = (-f / self.temperature).softmax(1)
        error = (cost - f.gather(1, taken)).square().squeeze(1)
        return self.mu * (policy * known).sum(1) + (1 - self.mu) * error


class Choice(Classification):
    """The action for a clip with the lowest cost, from a log of actions and costs.

    Scores are −(predicted cost) `[B, n]` of the actions, which are the model's labels. The label of
    an utterance is the action that was taken and its cost, as in "denoise 0.25". Metrics: `cost`,
    the mean cost of the utterances for which the model would take the action that was taken, an
    unbiased estimate if that was drawn at random; and `matched`, the share of these utterances.
    """

    loss = "prescriptive"

    def encode(self, utterance: Utterance) -> Tensor:
        """The index of the action, and its cost, `[2]`."""
        action, _, cost = (utterance.label or "").rpartition(" ")
        try:
            found = self.labels.index(action), float(cost)
        except ValueError:
            found = 0, math.nan
        if not math.isfinite(found[1]):
            raise ManifestError(
                f"{utterance.place}: label {utterance.label!r}; give one of the actions "
                f"{', '.join(self.labels)} and its cost, such as '{self.labels[0]} 0.25'"
            )
        return torch.tensor(found)

    def references(self, batch: Batch, output: Output) -> list[tuple[int, float]]:
        """The action that was taken, and its cost."""
        rows = self.targets(batch, output)[0].tolist()
        return [(int(action), cost) for action, cost in rows]

    def metrics(  # type: ignore[override]
        self, references: Sequence[tuple[int, float]], predictions: Sequence[int]
    ) -> dict[str, float]:
        pairs = zip(references, predictions, strict=True)
        matched = [cost for (action, cost), chosen in pairs if action == chosen]
        costs = matched or [cost for _, cost in references]
        return {
            "cost": sum(costs) / len(costs),
            "matched": len(matched) / len(references),
        }

    def error(self, metrics: dict[str, float]) -> float:
        return metrics["cost"]

    def sections(  # type: ignore[override]
        self, references: Sequence[tuple[int, float]], predictions: Sequence[int]
    ) -> list[tuple[str, str]]:
        """None: the log does not say what the best action was."""
        return []
