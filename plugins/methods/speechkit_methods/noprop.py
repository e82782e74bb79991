"""Blocks that learn to denoise a label, each from a loss of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, Output
from speechkit.nn import (
    AveragePool,
    BatchNorm,
    Chunk,
    ClipHead,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    Serial,
    Taps,
)
from speechkit.tasks import task_of
from speechkit.train import Method

OFFSET = 0.008
"""Of the cosine schedule."""
LEAST = 1e-4
"""The least variance of the noise."""


class NoPropHead(ClipHead):
    """Denoises a label in `blocks` steps, from z_0 = 0 to z_T, each with a net of its own.

        û_t = softmax(W_t relu(H_t [g_t(x), V_t z_{t−1}]))       p of the labels
        z_t = a_t û_t + b_t z_{t−1} + √c_t ε_t                  scores: linear(z_T)

    g_t is two separable convolutions of `width` channels with batch norm and ReLU, then the mean
    over valid frames. With ᾱ_t, which rises from 0 to 1 − 1e-4, and α = ᾱ_{t−1} / ᾱ_t:
    a_t = √ᾱ_t (1 − α) / (1 − ᾱ_{t−1}), b_t = √α (1 − ᾱ_t) / (1 − ᾱ_{t−1}),
    c_t = (1 − ᾱ_t) (1 − α) / (1 − ᾱ_{t−1}). Labels are one-hot vectors. A forward pass takes
    ε_t = 0, its mean, so that a clip always has the same scores. It needs the whole utterance.
    Train it with the method `noprop`. Shape: `[B, C, T]` → `[B, labels, 1]`. Source: Li et al.,
    arXiv:2503.24322; the nets g_t, and a chain without noise, are our choice.
    """

    self_initialized = ("linear",)

    def __init__(
        self, channels: int, labels: int, blocks: int = 10, width: int = 32, kernel: int = 11
    ) -> None:
        super().__init__()
        if min(blocks, width, kernel) < 1:
            raise ComponentError(
                f"head noprop: blocks={blocks}, width={width}, kernel={kernel}; give 1 or more"
            )
        self.labels = labels
        self.schedule = cosine(blocks)
        self.trunks = nn.ModuleList(trunk(channels, width, kernel) for _ in range(blocks))
        self.denoisers = nn.ModuleList(Denoiser(width, labels) for _ in range(blocks))
        self.linear = Pointwise(labels, labels, bias=True)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(labels))

    def channels_out(self, c_in: int) -> int:
        return self.labels

    def forward(self, c: Chunk) -> Chunk:
        z = c.x.new_zeros(c.x.shape[0], self.labels)
        for t, (features, denoise) in enumerate(zip(self.trunks, self.denoisers, strict=True), 1):
            z = step(self.schedule, t, denoise(features(c), z), z)
        y: Chunk = self.linear(Chunk.of(z[:, :, None]))
        return y

    def losses(self, features: Sequence[Chunk], targets: Tensor, eta: float) -> list[Tensor]:
        """The losses `[B]` of block 1 to T, then that of the linear layer.

            T/2 · eta · (snr_t − snr_{t−1}) · ‖û_t(z_{t−1}, x) − u‖²,  snr = ᾱ / (1 − ᾱ)

        z_{t−1} = √ᾱ_{t−1} u + √(1 − ᾱ_{t−1}) ε. `features` are g_1(x), …, g_T(x). The linear
        layer's is the cross-entropy of its logits for such a z_T. No loss depends on the parameters
        of another block.
        """
        u = nn.functional.one_hot(targets, self.labels).to(features[0].x.dtype)
        snr = [a / (1 - a) for a in self.schedule]
        blocks, found = len(features), []
        for t, (denoise, seen) in enumerate(zip(self.denoisers, features, strict=True), 1):
            squares = (denoise(seen, self.noisy(u, t - 1)) - u).square().sum(1)
            found.append(blocks / 2 * eta * (snr[t] - snr[t - 1]) * squares)
        scores = self.linear(Chunk.of(self.noisy(u, blocks)[:, :, None])).x[:, :, 0]
        return [*found, nn.functional.cross_entropy(scores, targets, reduction="none")]

    def noisy(self, u: Tensor, t: int) -> Tensor:
        """√ᾱ_t u + √(1 − ᾱ_t) ε. Shape: `[B, labels]` → the same."""
        a = self.schedule[t]
        return math.sqrt(a) * u + math.sqrt(1 - a) * torch.randn_like(u)


class Denoiser(nn.Module):
    """û `[B, labels]`, from features `[B, width, 1]` of a clip and a noisy label `[B, labels]`."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.label = Pointwise(labels, width, bias=True)
        self.hidden = Pointwise(2 * width, width, bias=True)
        self.logits = Pointwise(width, labels, bias=True)

    def forward(self, seen: Chunk, z: Tensor) -> Tensor:
        label = self.label(Chunk(z[:, :, None], seen.valid))
        both = Chunk(torch.cat([seen.x, label.x], dim=1), seen.valid)
        hidden = Chunk(torch.relu(self.hidden(both).x), seen.valid)
        p: Tensor = self.logits(hidden).x[:, :, 0].softmax(1)
        return p


def trunk(channels: int, width: int, kernel: int) -> Serial:
    """g: features `[B, width, 1]` of a clip `[B, channels, T]`."""
    rows = [
        Serial(
            mixer=DepthwiseConv(c_in, kernel),
            channel=Pointwise(c_in, width),
            norm=BatchNorm(width),
            activation=FrameWise(nn.ReLU()),
        )
        for c_in in (channels, width)
    ]
    return Serial(*rows, AveragePool())


def cosine(blocks: int) -> list[float]:
    """ᾱ_0, …, ᾱ_T from 0 to 1 − 1e-4: f(t) / f(T) with f(t) = cos²((1 − t/T + s) / (1 + s) · π/2).

    s is 0.008. Source: Nichol & Dhariwal, arXiv:2102.09672, with time reversed.
    """
    angles = [(1 - t / blocks + OFFSET) / (1 + OFFSET) * math.pi / 2 for t in range(blocks + 1)]
    squares = [math.cos(angle) ** 2 for angle in angles]
    return [min(square / squares[-1], 1 - LEAST) for square in squares]


def step(
    schedule: list[float], t: int, u: Tensor, z: Tensor, noise: Tensor | float = 0.0
) -> Tensor:
    """z_t from û_t and z_{t−1}, with noise ε_t. Shape of all: `[B, labels]`."""
    before, after = schedule[t - 1 : t + 1]
    alpha, rest = before / after, 1 - before
    a = math.sqrt(after) * (1 - alpha) / rest
    b = math.sqrt(alpha) * (1 - after) / rest
    c = (1 - after) * (1 - alpha) / rest
    return a * u + b * z + math.sqrt(c) * noise


@dataclass
class NoProp(Method):
    """Trains each block of a head `noprop` on its own loss, and nothing else; see that head.

    The layers before the head keep their weights, and the run's own loss changes no weight, so that
    no gradient passes from one block to another: give `loss=none`. TrainingError for another head.
    Source: Li et al., arXiv:2503.24322.
    """

    eta: float = 0.1

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise ComponentError(f"method noprop: eta={self.eta}; give a number above 0")

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        if not isinstance(model.head, NoPropHead):
            raise TrainingError(
                f"method noprop trains head=noprop, and this net has head={model.config.head}; "
                "give head=noprop, or leave the method out"
            )
        self.head = model.head
        self.task = task_of(model)
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        self.taps = Taps(dict(model.head.trunks.named_children()), training_only=True)
        model.head.register_forward_hook(detached)

    def extra_loss(self, batch: Batch, output: Output, *features: Any) -> Tensor:
        """The sum of the losses of the blocks and of the linear layer, `[B]`."""
        targets, _ = self.task.targets(batch, output)
        seen = [call.output for call in self.taps.take()]
        return torch.stack(self.head.losses(seen, targets, self.eta)).sum(0)


def detached(head: nn.Module, given: tuple[Chunk], scores: Chunk) -> Chunk:
    """A forward hook, after which the scores have no gradient."""
    return Chunk(scores.x.detach(), scores.valid)
