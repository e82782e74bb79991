"""Activations with statistics of their input in training, as batch norm has.

In evaluation each frame is independent of the others. Shape of all: `[B, C, T]` → the same.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.nn import Chunk, StreamLayer
from speechkit.nn.collectives import gather

TRANSPORT = ("loss", "subtract", "off")


def moments(c: Chunk) -> tuple[Tensor, Tensor]:
    """Mean and variance `[C]` of each channel over valid frames, in float32 at least."""
    x = c.masked.to(torch.promote_types(c.x.dtype, torch.float32))
    count = c.valid.sum().clamp(min=1)
    mean = x.sum((0, 2)) / count
    centred = torch.where(c.valid[:, None], x - mean[:, None], 0)
    return mean, centred.square().sum((0, 2)) / count


class VeLU(StreamLayer):
    """y = scale · x · sigmoid(alpha (atan(beta1 x) + asin(beta2 x))) · (1 + gamma tanh(mu σ)).

    σ is the standard deviation of the layer's input: of the batch in training, a running mean in
    evaluation. `scale` is learned and starts at 1. beta2 x is clamped to ±(1 − 1e-3), the domain of
    asin. The optimal-transport term lambda_ot · W², W² = mean² + (σ − 1)², is the distance of the
    input's moments to those of N(0, 1). ot=loss adds it to the loss of a run with the method
    `transport`. ot=subtract subtracts it from y, as in the printed formula. The defaults are
    choices of this package. arXiv:2504.15051.
    """

    undecayed = ("scale",)

    running_mean: Tensor
    running_std: Tensor

    def __init__(
        self,
        channels: int,
        alpha: float = 1.0,
        beta1: float = 0.5,
        beta2: float = 0.5,
        gamma: float = 0.5,
        mu: float = 1.0,
        ot: str = "loss",
        lambda_ot: float = 1e-3,
        momentum: float = 0.1,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        if ot not in TRANSPORT:
            raise ValueError(f"ot={ot!r}: give one of {', '.join(TRANSPORT)}")
        self.alpha, self.beta1, self.beta2, self.gamma, self.mu = alpha, beta1, beta2, gamma, mu
        self.ot, self.lambda_ot, self.momentum, self.eps = ot, lambda_ot, momentum, eps
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("running_mean", torch.tensor(0.0))
        self.register_buffer("running_std", torch.tensor(1.0))
        self.distance: Tensor | None = None

    def forward(self, c: Chunk) -> Chunk:
        mean, std = self.statistics(c)
        x = c.x
        inverse = torch.asin((self.beta2 * x).clamp(-1 + 1e-3, 1 - 1e-3))
        gate = torch.sigmoid(self.alpha * (torch.atan(self.beta1 * x) + inverse))
        factor = self.scale * (1 + self.gamma * torch.tanh(self.mu * std))
        y = factor.to(x.dtype) * x * gate
        if self.ot == "subtract":
            y = y - (self.lambda_ot * wasserstein(mean, std)).to(x.dtype)
        return Chunk(y, c.valid)

    @property
    def expression(self) -> str:
        """The function in evaluation."""
        text = (
            "scale * (1 + gamma * tanh(mu * running_std)) * x * sigmoid(alpha *"
            " (atan(beta1 * x) + asin(min(max(beta2 * x, -0.999), 0.999))))"
        )
        cost = " - lambda_ot * (running_mean ** 2 + (running_std - 1) ** 2)"
        return text + cost if self.ot == "subtract" else text

    def statistics(self, c: Chunk) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the whole layer's input."""
        if not self.training:
            return self.running_mean, self.running_std
        means, variances = moments(c)
        mean = means.mean()
        std = (variances.mean() + (means - mean).square().mean() + self.eps).sqrt()
        self.distance = wasserstein(mean, std)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_std.lerp_(std.to(self.running_std.dtype), self.momentum)
        return mean, std

    def aux_loss(self) -> Tensor | None:
        """lambda_ot · W² of the last batch in training, if it belongs to the loss."""
        if self.ot != "loss" or self.distance is None:
            return None
        return self.lambda_ot * self.distance

    def __getstate__(self) -> dict[str, Any]:
        # tensors of one batch's graph are not copied
        return {**vars(self), "distance": None}


def wasserstein(mean: Tensor, std: Tensor) -> Tensor:
    """W₂² of a Gaussian to N(0, 1): mean² + (std − 1)²."""
    return mean.square() + (std - 1).square()


class ReluOrPoly(StreamLayer):
    """y = max(x, 0) in channels whose switch is on, otherwise c0 + c1 x + c2 x².

    Each channel has a logit, which starts from U(0, 1). Each call in training updates the channel's
    switch with hysteresis: from on to off at logit ≤ −th, from off to on at logit > th. The
    gradient of the logit uses softplus(logit) in place of the switch's derivative. In the first
    `fit_calls` calls the polynomial is fitted every `fit_every` calls to N(μ, σ²) of the channel's
    input (least squares, `relu_fit`); then it is learned. `freeze()` fixes the switches; the method
    `relu_budget` bounds how many are on. Peng et al., AutoReP, arXiv:2308.10134. The paper has a
    switch for each pixel, and passes the variance to the fit; here it is the standard deviation.
    """

    undecayed = ("logits", "coefficients")

    on: Tensor
    frozen: Tensor
    calls: Tensor
    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self,
        channels: int,
        degree: int = 2,
        th: float = 0.003,
        fit_calls: int = 508,
        fit_every: int = 10,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if degree not in (1, 2):
            raise ValueError(f"degree={degree}: give 1 or 2")
        self.degree, self.th, self.momentum = degree, th, momentum
        self.fit_calls, self.fit_every = fit_calls, fit_every
        self.logits = nn.Parameter(torch.rand(channels))
        start = torch.tensor([0.0, 1.0, 0.0][: degree + 1])
        self.coefficients = nn.Parameter(start[:, None].repeat(1, channels))
        self.register_buffer("on", torch.ones(channels, dtype=torch.bool))
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))

    def forward(self, c: Chunk) -> Chunk:
        x = c.x
        if not self.training:
            y = torch.where(self.on[:, None], torch.relu(x), self.polynomial(x))
            return Chunk(y, c.valid)
        self.measure(c)
        self.turn()
        on = self.switches().to(x.dtype)[:, None]
        return Chunk(on * torch.relu(x) + (1 - on) * self.polynomial(x), c.valid)

    @property
    def expression(self) -> str:
        """The function in evaluation."""
        more = " + x * coefficients[2]" if self.degree == 2 else ""
        polynomial = f"coefficients[0] + x * (coefficients[1]{more})"
        return f"where(on > 0, relu(x), {polynomial})"

    def polynomial(self, x: Tensor) -> Tensor:
        """c0 + c1 x + c2 x²."""
        coefficients = self.coefficients.to(x.dtype)[:, :, None]
        y = coefficients[-1]
        for coefficient in coefficients[:-1].flip(0).unbind():
            y = y * x + coefficient
        return y

    def switches(self) -> Tensor:
        """The switches as 0 and 1 `[C]`, with a gradient for the logits."""
        learned = F.softplus(self.logits.detach()) * (self.logits - self.logits.detach())
        return self.on.to(self.logits.dtype) + learned

    @torch.no_grad()
    def measure(self, c: Chunk) -> None:
        """Updates the input's moments, and fits the polynomial again in the first calls."""
        mean, variance = moments(c)
        # one polynomial for all processes of a run
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            means, variances = gather(torch.stack([mean, variance])).unbind(1)
            mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_variance.lerp_(variance.to(self.running_variance.dtype), self.momentum)
        fits = (self.calls < self.fit_calls) & (self.calls % self.fit_every == 0)
        fitted = relu_fit(self.running_mean, self.running_variance.sqrt(), self.degree)
        self.coefficients.copy_(torch.where(fits, fitted, self.coefficients))
        self.calls += 1

    @torch.no_grad()
    def turn(self) -> None:
        """Updates the switches once from their logits."""
        self.on.copy_(torch.where(self.frozen, self.on, turned(self.on, self.logits, self.th)))

    def freeze(self) -> None:
        """Fixes the switches at their current values; this is saved with the weights."""
        self.frozen.fill_(True)


def turned(on: Tensor, logits: Tensor, th: float) -> Tensor:
    """The updated switches: on stays on above −th, off turns on above th."""
    return torch.where(on, logits > -th, logits > th)


def relu_fit(mean: Tensor, std: Tensor, degree: int) -> Tensor:
    """The least-squares polynomial for ReLU under N(mean, std²), `[degree + 1, C]`."""
    std = std.clamp(min=1e-6)
    z = mean / std
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    if degree == 1:
        return torch.stack([std * density, below])
    return torch.stack([(mean * z + std) * density / 2, below - z * density, density / (2 * std)])
