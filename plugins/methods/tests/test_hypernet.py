"""Weights that follow from z: their gradients, their size, and how they are computed again."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from speechkit_methods import hypernet
from speechkit_methods.hypernet import Hypernet, generate, weight_vector
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.models import MatchboxNet, build
from speechkit.models.inits import drawn_weights
from speechkit.train import Run, fit

NOTHING: Any = None
"""The dataset and the optimizer, which the method does not use."""


def started(model: Any, n: int, seed: int = 0) -> Hypernet:
    method = Hypernet(n, seed).to(next(model.parameters()).dtype)
    method.start(model, NOTHING)
    return method


def matrix(count: int, n: int, seed: int = 0) -> Tensor:
    """P `[count, n]`."""
    z = torch.zeros(n, dtype=torch.float64)
    return torch.cat([p for _, p in hypernet._matrix(count, z, seed)])


def test_the_gradient_of_z_is_that_of_autograd(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # several blocks, and a last one that is not full
    monkeypatch.setattr(hypernet, "ROWS", 100)
    model = build(run.model).double()
    method = started(model, 5)
    weights = list(drawn_weights(model))
    sizes = [weight.detach().square().mean().sqrt().expand(weight.numel()) for weight in weights]
    scale = torch.cat(sizes) * math.sqrt(3 / 5)
    start, p = weight_vector(model), matrix(len(scale), 5)
    assert len(p) % 100
    for step in range(1, 4):
        for parameter in model.parameters():
            parameter.grad = parameter.detach().cos()
        z = method.z.detach().clone().requires_grad_()
        torch.sin(start + scale * (p @ z)).sum().backward()
        method.before_step(model, step)
        torch.testing.assert_close(method.z.grad, z.grad, rtol=1e-12, atol=1e-12)
        assert all(weight.grad is None for weight in weights)
        assert model.head.linear.bias.grad is not None
        with torch.no_grad():
            method.z -= 0.1 * method.z.grad
        method.after_step(model, step, NOTHING)
        expected = start + scale * (p @ method.z.detach())
        torch.testing.assert_close(weight_vector(model), expected, rtol=1e-12, atol=1e-12)


def test_z_between_minus_1_and_1_gives_weights_of_the_deviation_of_the_start() -> None:
    model = build(MatchboxNet(size="3x1x64", labels=("a", "b"), init="kaiming_uniform"))
    before = [weight.detach().clone() for weight in drawn_weights(model)]
    z = 2 * torch.rand(2048, generator=torch.Generator().manual_seed(0)) - 1
    generate(model, weight_vector(model), z, seed=0)
    for old, new in zip(before, drawn_weights(model), strict=True):
        if old.numel() > 5000:
            deviation = float((new.detach() - old).std())
            assert deviation == pytest.approx(math.sqrt(2 / old[0].numel()), rel=0.02)


def test_only_n_numbers_are_trained_and_no_matrix_is_kept() -> None:
    model = build(MatchboxNet(size="1x1x8", labels=("a", "b")))
    method = started(model, 30)
    assert [p.numel() for p in method.parameters()] == [30]
    assert set(method.state_dict()) == {"z", "initial"}
    rows = [len(p) for _, p in hypernet._matrix(5000, method.z, 0)]
    assert max(rows) == 1024
    assert sum(rows) == 5000


def test_the_model_follows_from_z_the_seeds_and_what_is_not_computed(
    run: Run, tmp_path: Path
) -> None:
    run = replace(run, method=("hypernet:n=16,seed=3",), seed=5, ema=0.0)
    fit(run, tmp_path, device="cpu")
    trained = load_file(tmp_path / "last/model.safetensors")
    z = load_file(tmp_path / "last/training/methods.safetensors")["0.z"]
    assert z.abs().min() > 0

    def rebuilt(seed: int) -> dict[str, Tensor]:
        model = build(run.model, run.seed)
        computed = {id(weight) for weight in drawn_weights(model)}
        names = {name for name, p in model.named_parameters() if id(p) in computed}
        rest = {name: value for name, value in trained.items() if name not in names}
        model.load_state_dict(rest, strict=False)
        generate(model, weight_vector(model), z, seed)
        return model.state_dict()

    same = rebuilt(3)
    assert all(torch.equal(same[name], value) for name, value in trained.items())
    other = rebuilt(4)
    assert not torch.equal(other["head.linear.weight"], trained["head.linear.weight"])


class Sound(nn.Module):
    """A wave as a net of time, which is encoded by sines: 12-32-32-1."""

    def __init__(self) -> None:
        super().__init__()
        widths = 12, 32, 32, 1
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def forward(self, t: Tensor) -> Tensor:
        angles = math.pi * t[:, None] * 2 ** torch.arange(6)
        y: Tensor = self.net(torch.cat([angles.sin(), angles.cos()], 1))
        return y[:, 0]


def error(n: int) -> float:
    """The mean squared error after 200 steps with n numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = Sound()
    t = torch.linspace(-1, 1, 200)
    wave = 0.5 * torch.sin(7 * t) + 0.3 * torch.sin(23 * t + 1) * torch.exp(-2 * t**2)
    method = started(model, n)
    optimizer = torch.optim.Adam([*model.parameters(), *method.parameters()], lr=0.01)
    for step in range(1, 201):
        optimizer.zero_grad()
        loss = (model(t) - wave).square().mean()
        loss.backward()
        method.before_step(model, step)
        optimizer.step()
        method.after_step(model, step, optimizer)
    return float(loss.detach())


def test_more_numbers_fit_a_wave_better() -> None:
    errors = [error(n) for n in (2, 16, 128)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.2 * errors[0]


def test_no_numbers_are_refused() -> None:
    with pytest.raises(ComponentError, match="method hypernet: n=0; give a number from 1 up"):
        Hypernet(0)
