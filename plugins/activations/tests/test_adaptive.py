import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from speechkit_activations.adaptive import ReluOrPoly, VeLU, relu_fit, turned
from speechkit_activations.methods import ReluBudget, Transport
from torch import Tensor

from speechkit.checkpoint import load
from speechkit.errors import TrainingError
from speechkit.models import Block, MatchboxNet, Model, Output, build
from speechkit.nn import Chunk
from speechkit.testing import assert_close
from speechkit.testing.runs import assert_same_files, fit_in_two
from speechkit.train import Data, Run, fit

BLOCKS = (
    Block(channels=8, kernel=5, stride=2),
    Block(channels=8, kernel=5, residual=True),
    Block(channels=8, kernel=1, separable=False),
)


def config(activation: str) -> MatchboxNet:
    frontend = "log_mel:n_mels=16,normalize=running"
    return MatchboxNet(
        labels=("low", "high"), blocks=BLOCKS, frontend=frontend, activation=activation
    )


def normal(channels: int = 4, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> Chunk:
    chance = torch.Generator().manual_seed(seed)
    return Chunk.of(mean + std * torch.randn(4, channels, 500, generator=chance))


def test_paper_014_velu_at_zero_and_without_its_terms(line: Tensor) -> None:
    zero = Chunk.of(torch.zeros(1, 4, 3))
    for module in (VeLU(4), VeLU(4).eval(), VeLU(4, ot="off")):
        assert torch.equal(module(zero).x, zero.x)
    plain = VeLU(1, beta1=0, beta2=0, gamma=0, ot="off").double()
    with torch.no_grad():
        plain.scale.fill_(3.0)
    assert torch.equal(plain(Chunk.of(line)).x, 3 * line / 2)


def test_paper_014_velu_is_finite_far_out() -> None:
    x = torch.linspace(-1000, 1000, 801).expand(1, 2, -1).clone().requires_grad_()
    for training in (True, False):
        y = VeLU(2).train(training)(Chunk.of(x)).x
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.isfinite(y).all()
        assert torch.isfinite(gradient).all()


def test_paper_014_the_factor_follows_the_deviation() -> None:
    module = VeLU(4, beta1=0, beta2=0, gamma=0.4, mu=0.7, ot="off")
    c = normal(std=2.0)
    std = (c.x.var(correction=0) + 1e-3).sqrt().item()
    expected = c.x / 2 * (1 + 0.4 * math.tanh(0.7 * std))
    assert_close("training", expected.detach(), module(c).x.detach(), 1e-5)
    for _ in range(200):
        module(c)
    assert_close("evaluation", expected, module.eval()(c).x.detach(), 1e-5)


def test_paper_014_evaluation_takes_each_utterance_alone() -> None:
    module = VeLU(4)
    module(normal(std=3.0))
    module.eval()
    c = normal(seed=1)
    alone = module(Chunk.of(c.x[:1])).x
    assert torch.equal(module(c).x[:1], alone)


def test_paper_014_transport_is_zero_for_a_standard_normal_input_alone() -> None:
    module = VeLU(4, lambda_ot=1.0, eps=0.0)
    x = normal().x
    standard = (x - x.mean()) / x.std(correction=0)
    for scale, shift, expected in ((1.0, 0.0, 0.0), (1.0, 0.5, 0.25), (3.0, 0.0, 4.0)):
        module(Chunk.of(scale * standard + shift))
        loss = module.aux_loss()
        assert loss is not None
        assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert VeLU(4, ot="off").aux_loss() is None
    printed = VeLU(4, ot="subtract", lambda_ot=1.0, eps=0.0)
    y = printed(Chunk.of(3 * standard)).x - VeLU(4, ot="off", eps=0.0)(Chunk.of(3 * standard)).x
    assert_close("subtracted", torch.full_like(y, -4.0), y.detach(), 1e-4)


def test_paper_014_padding_is_not_measured() -> None:
    c = normal()
    padded = Chunk.of(torch.cat([c.x, torch.full((4, 4, 100), torch.nan)], 2), c.lengths)
    one, other = VeLU(4), VeLU(4)
    assert_close("y", one(c).x.detach(), other(padded).x[:, :, :500].detach(), 1e-5)
    assert_close("std", one.running_std, other.running_std, 1e-6)


def test_a_model_is_copied_between_steps() -> None:
    model = build(config("velu"))
    model(torch.randn(2, 6400).clamp(-1, 1), torch.tensor([6400, 5000]))
    assert copy.deepcopy(model) is not model


def test_transport_reaches_the_loss() -> None:
    model = build(config("velu:lambda_ot=0.5")).train()
    method = Transport()
    method.start(model, None)  # type: ignore[arg-type]
    output = model(0.1 * torch.randn(2, 6400))
    losses = method.extra_loss(None, output)  # type: ignore[arg-type]
    terms = [m.distance for m in model.modules() if isinstance(m, VeLU)]
    assert losses.shape == (2,)
    assert_close("terms", 0.5 * sum(terms).expand(2), losses, 1e-6)  # type: ignore[union-attr,arg-type]
    losses.mean().backward()
    with pytest.raises(TrainingError, match="needs activation=velu"):
        Transport().start(build(config("relu")), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 2.0), (-1.0, 0.5)])
@pytest.mark.parametrize("degree", [1, 2])
def test_paper_051_the_fit_is_the_least_squares_one(mean: float, std: float, degree: int) -> None:
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    x, weight = mean + std * z, torch.exp(-z * z / 4)[:, None]
    basis = torch.stack([x**n for n in range(degree + 1)], dim=1)
    expected = torch.linalg.lstsq(weight * basis, weight * torch.relu(x)[:, None]).solution
    one = torch.tensor([1.0], dtype=torch.float64)
    assert_close("fit", expected, relu_fit(mean * one, std * one, degree), 1e-4)


def test_paper_051_the_fit_of_a_standard_normal() -> None:
    one = torch.ones(1)
    assert relu_fit(0 * one, one, 2)[:, 0].tolist() == pytest.approx(
        [0.1995, 0.5, 0.1995], abs=1e-4
    )


def test_paper_051_all_switches_on_is_relu(line: Tensor) -> None:
    for training in (True, False):
        module = ReluOrPoly(1).double().train(training)
        y = module(Chunk.of(line)).x
        assert torch.equal(y, torch.relu(line))


def test_paper_051_switches_turn_with_hysteresis() -> None:
    on = torch.tensor([True, True, False, False, True, False])
    logits = 0.003 * torch.tensor([-0.5, -1.5, 0.5, 1.5, 0.5, -0.5])
    assert turned(on, logits, 0.003).tolist() == [True, False, False, True, True, False]


def test_paper_051_the_polynomial_follows_the_input_then_learns() -> None:
    module = ReluOrPoly(4, fit_calls=40, fit_every=1)
    for seed in range(40):
        module(normal(std=2.0, seed=seed))
    expected = relu_fit(torch.zeros(4), torch.full((4,), 2.0), 2)
    assert (module.coefficients.detach() - expected).abs().max() < 0.06
    before = module.coefficients.detach().clone()
    module(normal(std=9.0))
    assert torch.equal(module.coefficients.detach(), before)


def test_paper_051_logits_learn_by_softplus() -> None:
    module = ReluOrPoly(4)
    with torch.no_grad():
        module.coefficients.zero_()
    c = normal()
    module.fit_calls = 0
    module(c).x.sum().backward()
    expected = torch.relu(c.x).sum((0, 2)) * torch.nn.functional.softplus(module.logits)
    assert module.logits.grad is not None
    assert_close("logits", expected.detach(), module.logits.grad, 1e-5)


def budgeted(model: Model, budget: float) -> ReluBudget:
    method = ReluBudget(budget=budget)
    method.start(model, None)  # type: ignore[arg-type]
    return method


def penalty(method: ReluBudget) -> Tensor:
    scores = torch.zeros(3, 2)
    return method.extra_loss(None, Output(scores, torch.ones(3)))  # type: ignore[arg-type]


def test_paper_051_the_penalty_ends_at_the_budget() -> None:
    model = build(config("relu_or_poly"))
    layers = [m for m in model.modules() if isinstance(m, ReluOrPoly)]
    method = budgeted(model, 0.5)
    assert penalty(method).tolist() == pytest.approx([50.0] * 3)
    for layer in layers:
        layer.on[:5] = False
    assert penalty(method).tolist() == [0.0] * 3
    with torch.no_grad():
        for layer in layers:
            layer.logits.fill_(1.0)
            layer.train()(normal(len(layer.on)))
    assert all(int(layer.on.sum()) == 3 for layer in layers), "they are frozen"
    with pytest.raises(TrainingError, match="needs activation=relu_or_poly"):
        budgeted(build(config("relu")), 0.5)


def test_paper_051_training_keeps_the_budget_and_the_file_has_its_relus(
    tones: Path, tmp_path: Path
) -> None:
    run = Run(
        model=config("relu_or_poly"),
        data=Data(train=tones, dev=tones, batch_size=4),
        steps=40,
        optimizer="adamw:lr=0.1",
        method=("relu_budget:budget=0.5",),
    )
    fit(run, tmp_path / "run", device="cpu")
    model = load(tmp_path / "run" / "last")
    layers = [m for m in model.modules() if isinstance(m, ReluOrPoly)]
    kept, channels = sum(int(m.on.sum()) for m in layers), sum(len(m.on) for m in layers)
    assert 0 < kept <= channels / 2
    assert all(m.frozen for m in layers)
    x = torch.randn(1, len(layers[0].on), 50)
    program = torch.export.export(layers[0].eval(), (Chunk.of(x),)).module()
    y = program(Chunk.of(x)).x
    assert torch.equal((y == torch.relu(x)).all(2)[0], layers[0].on)


def test_paper_051_two_processes_fit_one_polynomial(tones: Path, tmp_path: Path) -> None:
    run = Run(
        model=config("relu_or_poly"),
        data=Data(train=tones, dev=tones, batch_size=1),
        steps=4,
        schedule="constant",
        devices=2,
        method=("relu_budget:budget=0.5",),
    )
    half = replace(run, steps=2)
    done = fit_in_two(tmp_path, (run, "whole", False), (half, "parts", False), (run, "parts", True))
    assert done.returncode == 0, done.stderr
    weights = "last/training/weights.safetensors"
    assert_same_files(tmp_path / "whole", tmp_path / "parts", (weights,))


def test_transport_trains(tones: Path, tmp_path: Path) -> None:
    run = Run(
        model=config("velu"),
        data=Data(train=tones, dev=tones, batch_size=4),
        steps=2,
        ema=0.9,
        method=("transport",),
    )
    assert math.isfinite(fit(run, tmp_path / "run", device="cpu")["accuracy"])
