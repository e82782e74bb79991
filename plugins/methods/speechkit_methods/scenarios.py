"""Claims of theory papers as short experiments: what is predicted, and what is measured.

The sizes and rates are our choice. The parameters of an experiment are there to show that
the prediction fails without what the paper requires.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from speechkit_methods.inits import small_balanced
from speechkit_methods.two_stage import two_stage


@dataclass(frozen=True)
class Finding:
    """What a paper predicts, the numbers measured, and whether they confirm the prediction."""

    paper: str
    predicted: str
    measured: dict[str, float]
    holds: bool


def feature_amplification(rate: float = 2.0) -> Finding:
    """Neurons turn towards the two directions that carry the labels, of which 10 % are wrong.

    Clusters at ±μ1 (label 1) and ±μ2 (label −1), which no linear rule separates. 200 ReLU neurons
    with a fixed second layer; logistic loss, 300 steps. Frei et al., arXiv:2202.07626.
    """
    generator = Generator().manual_seed(0)
    features, neurons = 50, 200
    centres = torch.linalg.qr(torch.randn(features, 2, generator=generator)).Q.T

    def draw(count: int) -> tuple[Tensor, Tensor]:
        which, sign = torch.randint(2, (2, count), generator=generator)
        noise = 0.15 * torch.randn(count, features, generator=generator)
        return centres[which] * (2 * sign - 1)[:, None] + noise, 1.0 - 2 * which

    def aligned() -> float:
        cosines = F.normalize(w.detach(), dim=1) @ centres.T
        return float((cosines.abs().amax(1) > 0.8).float().mean())

    x, labels = draw(400)
    test, test_labels = draw(5000)
    wrong = torch.rand(len(x), generator=generator) < 0.1
    y = torch.where(wrong, -labels, labels)
    line = torch.linalg.lstsq(F.pad(x, (0, 1), value=1), y[:, None]).solution
    linear = _accuracy(F.pad(test, (0, 1), value=1) @ line[:, 0], test_labels)

    w = (0.01 * torch.randn(neurons, features, generator=generator)).requires_grad_()
    out = torch.tensor([1.0, -1.0]).repeat(neurons // 2) / math.sqrt(neurons)
    at_first = aligned()
    for _ in range(300):
        _descend(F.softplus(-y * (F.relu(x @ w.T) @ out)).mean(), [w], rate)
    net = _accuracy(F.relu(test @ w.detach().T) @ out, test_labels)
    measured = {
        "accuracy of a linear rule": linear,
        "of the net": net,
        "share of neurons with |cos| > 0.8 at first": at_first,
        "in the end": aligned(),
    }
    return Finding(
        "arXiv:2202.07626",
        "neurons align with the clusters and classify clean data right, although 10 % of the "
        "labels are wrong",
        measured,
        linear <= 0.55 and net >= 0.98 and at_first < 0.01 and aligned() > 0.8,
    )


def early_alignment(size: float = 1e-4) -> Finding:
    """From small balanced weights all neurons align with the data before the loss falls.

    Clips of a label correlate positively, those of the other negatively. 50 ReLU neurons, both
    layers trained from `small_balanced`; logistic loss. Min et al., arXiv:2307.12851.
    """
    generator = Generator().manual_seed(0)
    count, features, neurons = 40, 20, 50
    direction = F.normalize(torch.randn(features, generator=generator), dim=0)
    y = torch.tensor([1.0, -1.0]).repeat(count // 2)
    spread = 0.5 * torch.randn(count, features, generator=generator) / math.sqrt(features)
    x = y[:, None] * (direction + spread)
    net = nn.Sequential(
        nn.Linear(features, neurons, bias=False), nn.ReLU(), nn.Linear(neurons, 1, bias=False)
    )
    small_balanced(size)(net, generator)
    w, v = net.parameters()
    sums = torch.stack([x[y < 0].sum(0), x[y > 0].sum(0)])

    def cosine() -> float:
        return float(F.cosine_similarity(w.detach(), sums[(v.detach()[0] > 0).long()]).mean())

    losses: list[float] = []
    at_first, moved = cosine(), (math.nan, math.nan)
    for _ in range(401):
        loss = F.softplus(-y * net(x)[:, 0]).mean()
        losses.append(float(loss.detach()))
        if math.isnan(moved[0]) and losses[-1] < 0.99 * losses[0]:
            moved = cosine(), _stable_rank(w.detach())
        _descend(loss, [w, v], 1.0)
    measured = {
        "mean cos at first": at_first,
        "when the loss is 1 % lower": moved[0],
        "stable rank of the weights then": moved[1],
        "loss after 200 steps": losses[200],
        "after 400": losses[400],
    }
    # a loss in 1 / t halves from 200 to 400 steps
    falls = 0.35 < losses[400] / losses[200] < 0.65
    return Finding(
        "arXiv:2307.12851",
        "all neurons align with the data before the loss falls, which then is as 1 / steps",
        measured,
        at_first < 0.5 and moved[0] > 0.95 and moved[1] < 2 and falls,
    )


def find_then_tune(rate: float = 1.0) -> Finding:
    """Training first finds the two inputs that matter, and only then lowers the loss.

    Inputs of 40 signs, the label is the XOR of two of them. 256 ReLU neurons, both layers trained;
    logistic loss, 100 steps with 64 new examples. Glasgow, arXiv:2309.15111.
    """
    generator = Generator().manual_seed(0)
    inputs, neurons = 40, 256

    def draw(count: int) -> tuple[Tensor, Tensor]:
        x = 2.0 * torch.randint(2, (count, inputs), generator=generator) - 1
        return x, -x[:, 0] * x[:, 1]

    def scores(x: Tensor) -> Tensor:
        return F.relu(x @ w.T) @ out * 4 / math.sqrt(neurons)

    @torch.no_grad()
    def state() -> tuple[float, float]:
        share = w[:, :2].square().sum() / w.square().sum()
        return float(F.softplus(-test_labels * scores(test)).mean()), float(share)

    test, test_labels = draw(2000)
    w = 0.1 * F.normalize(torch.randn(neurons, inputs, generator=generator), dim=1)
    out = 0.1 * (2.0 * torch.randint(2, (neurons,), generator=generator) - 1)
    w.requires_grad_()
    out.requires_grad_()
    states = [state()]
    for step in range(1, 101):
        x, y = draw(64)
        _descend(F.softplus(-y * scores(x)).mean(), [w, out], rate)
        if step in (25, 100):
            states.append(state())
    accuracy = _accuracy(scores(test).detach(), test_labels)
    (loss, share), (found_loss, found_share), (last_loss, last_share) = states
    measured = {
        "share of the two inputs in the weights at first": share,
        "after 1600 examples": found_share,
        "after 6400": last_share,
        "loss at first": loss,
        "after 1600": found_loss,
        "after 6400 examples": last_loss,
        "accuracy": accuracy,
    }
    return Finding(
        "arXiv:2309.15111",
        "the two inputs are found while the loss has hardly fallen; then it falls to 0",
        measured,
        found_share > 3 * share
        and found_loss > 0.9 * loss
        and last_share > 0.75
        and last_loss < 0.2 * loss
        and accuracy >= 0.99,
    )


def prelu_xor() -> Finding:
    """One PReLU neuron without a bias learns XOR of two signs: |x_1 − x_2| / 2 has a slope of −1.

    20 starts, gradient descent of the squared error, 300 steps. The control keeps the slope of 0.25
    with which PReLU begins. Pinto & Tavares, arXiv:2409.10821.
    """
    rates = (0.01, 0.1, 1.0)
    learned = min(solved_xor(rate) for rate in rates)
    fixed = max(solved_xor(rate, learned=False) for rate in rates)
    return Finding(
        "arXiv:2409.10821",
        "one neuron with PReLU solves XOR from each of 20 starts, with a fixed positive slope none",
        {
            "least of 20 at three learning rates": learned,
            "most with a fixed slope": fixed,
        },
        learned == 20 and fixed == 0,
    )


def solved_xor(rate: float, learned: bool = True, bipolar: bool = True) -> int:
    """How many of 20 starts are right for all four inputs in the end; the inputs are −1 and 1, or 0
    and 1."""
    x = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    x = x if bipolar else (x + 1) / 2
    y = torch.tensor([0.0, 1.0, 1.0, 0.0])
    w = 2 * torch.rand(20, 2, generator=Generator().manual_seed(0)) - 1
    slope = torch.full((20, 1), 0.25)
    trained = [w.requires_grad_(), slope.requires_grad_()] if learned else [w.requires_grad_()]

    def outputs() -> Tensor:
        z = w @ x.T
        return torch.where(z > 0, z, slope * z)

    for _ in range(300):
        # the starts are separate nets
        _descend((outputs() - y).square().mean(1).sum(), trained, rate)
    return int(((outputs() > 0.5) == (y > 0.5)).all(1).sum())


def easy_filter(steps: int = 200) -> Finding:
    """Gradient descent recovers a filter from the mean of ReLU(w · patch), from each random start.

    400 examples of 6 patches with 8 numbers, 10 starts in the unit ball, and `two_stage` as the
    schedule. Patches that are equal are learned faster than independent ones. Du et al.,
    arXiv:1709.06129.
    """
    generator = Generator().manual_seed(0)
    patches = torch.randn(400, 6, 8, generator=generator, dtype=torch.float64)
    target = F.normalize(torch.randn(8, generator=generator, dtype=torch.float64), dim=0)
    starts = F.normalize(torch.randn(10, 8, generator=generator, dtype=torch.float64), dim=1)
    starts *= torch.rand(10, 1, generator=generator, dtype=torch.float64) ** (1 / 8)
    distances, angles = _recovery(patches, target, starts, steps)
    equal, _ = _recovery(patches[:, :1].expand_as(patches), target, starts, steps)
    recovered = float((distances[-1] < 1e-3).sum())
    steady = float((angles.diff(dim=0) < 1e-6).all(0).sum())
    took, took_equal = ((way > 1e-3).sum(0).double().mean().item() for way in (distances, equal))
    return Finding(
        "arXiv:1709.06129",
        "each of 10 starts recovers the filter, its angle shrinks, and faster for equal patches",
        {
            "recovered": recovered,
            "with an angle that never grows": steady,
            "steps": took,
            "steps for equal patches": took_equal,
        },
        recovered == 10 and steady >= 9 and took_equal < took,
    )


def _recovery(patches: Tensor, target: Tensor, starts: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The distance and the angle to the target of each start after each step, `[steps, starts]`."""
    w = starts.clone().requires_grad_()
    truth = F.relu(patches @ target).mean(1)
    rate = two_stage(steps, switch=50, first=0.1)
    distances, angles = [], []
    for step in range(steps):
        error = F.relu(patches @ w.T).mean(1) - truth[:, None]
        _descend(error.square().mean(0).sum() / 2, [w], 1.5 * rate(step))
        distances.append((w.detach() - target).norm(dim=1))
        cosines = F.cosine_similarity(w.detach(), target[None])
        angles.append(cosines.clamp(-1, 1).arccos())
    return torch.stack(distances), torch.stack(angles)


def _descend(loss: Tensor, weights: list[Tensor], rate: float) -> None:
    """A step of gradient descent."""
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= rate * gradient


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    return float((scores * labels > 0).float().mean())


def _stable_rank(w: Tensor) -> float:
    """‖W‖_F² / ‖W‖_2²."""
    return float(w.square().sum() / torch.linalg.matrix_norm(w, 2) ** 2)


SCENARIOS: dict[str, Callable[[], Finding]] = {
    "feature_amplification": feature_amplification,
    "early_alignment": early_alignment,
    "find_then_tune": find_then_tune,
    "prelu_xor": prelu_xor,
    "easy_filter": easy_filter,
}
"""Each experiment by the name that `speechkit verify` knows."""
