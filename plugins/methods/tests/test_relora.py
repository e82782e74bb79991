"""Low-rank updates: their gradients, their merges, and what they leave alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_methods.relora import LowRank, ReLoRA
from torch import nn
from torch.optim import SGD, AdamW

from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Block, MatchboxNet, Model, build
from speechkit.train import Run, dry_run, fit

NOTHING: Any = None
"""The dataset, which the method does not use."""


def net() -> Model:
    blocks = (
        Block(channels=16, kernel=5),
        Block(channels=12, kernel=5, residual=True),
        Block(channels=16, kernel=3, separable=False),
        Block(channels=24, kernel=1, separable=False),
    )
    return build(MatchboxNet(labels=("a", "b"), blocks=blocks)).double()


def set_gradients(model: Model, step: int) -> None:
    """Random gradients for all parameters."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        shape = parameter.shape
        parameter.grad = torch.randn(shape, generator=generator, dtype=torch.float64)


def test_without_restarts_it_is_lora() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 20, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = nn.Parameter(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    update = LowRank(weight, rank=6, scale=4.0, generator=generator)
    base = weight.detach().clone()
    a, b = (p.detach().clone().requires_grad_() for p in (update.a, update.b))
    mine, theirs = AdamW([weight, update.a, update.b]), AdamW([a, b])
    for _ in range(20):
        mine.zero_grad()
        theirs.zero_grad()
        (weight @ x - y).square().mean().backward()
        update.take_gradient(weight)
        mine.step()
        update.write(weight)
        (base @ x + 4.0 * (b @ (a @ x)) - y).square().mean().backward()
        theirs.step()
    torch.testing.assert_close(weight.detach(), base + 4.0 * (b @ a).detach(), rtol=0, atol=1e-12)
    assert not torch.allclose(weight, base, atol=1e-3)


def test_a_begins_as_a_linear_layer_of_torch_and_b_at_0() -> None:
    matrix = torch.ones(40, 400)
    update = LowRank(matrix, 30, 1.0, torch.Generator().manual_seed(0))
    assert float(update.a.detach().abs().max()) == pytest.approx(1 / 20, rel=0.01)
    assert float(update.a.detach().std()) == pytest.approx(1 / 20 / 3**0.5, rel=0.02)
    before = matrix.clone()
    update.write(matrix)
    assert torch.equal(matrix, before)


def test_each_update_adds_its_rank() -> None:
    model = net()
    method = ReLoRA(rank=2, alpha=2, every=1)
    method.start(model, NOTHING)
    matrices = method._matrices(model)
    start = [matrix.detach().clone() for matrix in matrices]
    optimizer = SGD([*model.parameters(), *method.parameters()], lr=0.1)
    for step in range(1, 10):
        set_gradients(model, step)
        method.before_step(model, step)
        optimizer.step()
        method.after_step(model, step, optimizer)
        for old, new in zip(start, matrices, strict=True):
            change = (new.detach() - old).flatten(1)
            assert torch.linalg.matrix_rank(change, rtol=1e-9) == min(2 * step, *change.shape)


def test_a_restart_keeps_the_weights_and_only_zeroes_the_averages() -> None:
    model = net()
    method = ReLoRA(rank=4, every=3, warm=2)
    method.start(model, NOTHING)
    optimizer = AdamW([*model.parameters(), *method.parameters()], lr=0.01)
    matrix = method._matrices(model)[0]
    update: Any = method.updates[0]
    before = matrix
    for step in range(1, 6):
        set_gradients(model, step)
        method.before_step(model, step)
        assert (matrix.grad is None) == (step > 2)
        assert (update.a.grad is None) == (step <= 2)
        optimizer.step()
        drawn, value = update.a.detach().clone(), update.b.detach().clone()
        method.after_step(model, step, optimizer)
        assert (matrix in optimizer.state) == (step < 2)
        if step > 2:
            expected = before + 8.0 * (value @ drawn).view_as(matrix)
            torch.testing.assert_close(matrix.detach(), expected, rtol=0, atol=1e-12)
        if step == 2:
            before = matrix.detach().clone()
    # step 5 restarts
    assert torch.equal(update.base, matrix.detach())
    assert not update.b.any()
    assert not torch.equal(update.a, drawn)
    for parameter in (update.a, update.b):
        state = optimizer.state[parameter]
        assert not state["exp_avg"].any()
        assert not state["exp_avg_sq"].any()
        assert state["step"] == 3
    other = optimizer.state[model.head.linear.weight]
    assert other["exp_avg"].all()
    assert other["exp_avg_sq"].all()


@pytest.mark.parametrize("rank", [8, 12])
def test_only_matrices_of_the_encoder_that_are_larger_have_updates(rank: int) -> None:
    model = net()
    method = ReLoRA(rank=rank)
    method.start(model, NOTHING)
    set_gradients(model, 1)
    method.before_step(model, 1)
    updated = {name for name, p in model.named_parameters() if p.grad is None}
    expected = {"encoder.2.body.0.conv.weight"}
    if rank < 12:
        expected |= {f"encoder.0.sum.{part}.channel.weight" for part in ("body.0", "shortcut")}
    assert updated == expected
    assert len(method.updates) == len(expected)


def same(one: Path, other: Path, *files: str) -> bool:
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


def test_a_run_of_warm_steps_is_the_plain_run_to_the_bit(run: Run, tmp_path: Path) -> None:
    files = "last/model.safetensors", "last/training/weights.safetensors", "metrics.jsonl"
    fit(run, tmp_path / "plain", device="cpu")
    for warm in (6, 7):
        method = f"relora:rank=2,warm={warm}"
        fit(replace(run, method=(method,)), tmp_path / str(warm), device="cpu")
        assert same(tmp_path / "plain", tmp_path / str(warm), *files) == (warm == 7)


@pytest.mark.parametrize("given", [{"rank": 0}, {"every": 0}, {"warm": -1}])
def test_wrong_numbers_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ComponentError, match=r"method relora: .*give rank from 1 up"):
        ReLoRA(**given)


def test_a_net_with_only_smaller_matrices_is_refused(run: Run) -> None:
    with pytest.raises(TrainingError, match=r"rank=8, .*give a smaller rank"):
        dry_run(replace(run, method=("relora:rank=8",)))
    dry_run(replace(run, method=("relora:rank=7",)))
