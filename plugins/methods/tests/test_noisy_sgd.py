"""Noisy gradient descent: its temperature, its noise, and that without any it is torch's SGD."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from speechkit_methods.noisy_sgd import NoisySGD
from torch import Tensor, nn

from speechkit.errors import SpeechkitError
from speechkit.testing.runs import fit_in_two
from speechkit.train import Run, dry_run, fit


def samples(steps: int, **settings: float) -> Tensor:
    """A trajectory of 4000 separate weights with the loss w² / 2 each, from 0, `[steps, 4000]`."""
    w = nn.Parameter(torch.zeros(4000))
    optimizer = NoisySGD([w], **settings)  # type: ignore[arg-type]
    found = []
    for _ in range(steps):
        w.grad = w.detach().clone()
        optimizer.step()
        found.append(w.detach().clone())
    return torch.stack(found)


def test_paper_061_the_stationary_variance_is_1_over_beta() -> None:
    for beta in (4.0, 100.0):
        last = samples(300, lr=0.02, temperature=1 / beta)[-1]
        assert last.var().item() == pytest.approx(1 / beta, rel=0.1)
        assert last.mean().item() == pytest.approx(0, abs=4 / math.sqrt(4000 * beta))


def test_weight_decay_is_part_of_the_loss() -> None:
    # (1 + 3) w² / 2, so a quarter of the variance
    last = samples(300, lr=0.02, temperature=1.0, weight_decay=3.0)[-1]
    assert last.var().item() == pytest.approx(0.25, rel=0.1)


def test_every_weight_and_step_has_noise_of_its_own_that_follows_from_the_seed() -> None:
    first, second = samples(2, lr=1.0, temperature=0.5)
    # with lr 1 the weight is the noise alone
    assert first.std().item() == pytest.approx(1, rel=0.05)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1].item()) < 0.1
    assert len(first.unique()) > 3990
    assert torch.equal(first, samples(1, lr=1.0, temperature=0.5)[0])
    assert not torch.equal(first, samples(1, lr=1.0, temperature=0.5, seed=1)[0])


def test_two_tensors_of_one_shape_have_different_noise() -> None:
    one, other, still = (nn.Parameter(torch.zeros(100)) for _ in range(3))
    optimizer = NoisySGD([{"params": [one, still]}, {"params": [other]}], lr=1.0, temperature=0.5)
    one.grad, other.grad = torch.zeros(100), torch.zeros(100)
    optimizer.step()
    assert not torch.equal(one, other)
    # it has no gradient
    assert not still.any()


def test_at_temperature_0_it_is_torchs_sgd_to_the_bit() -> None:
    start = torch.randn(50, generator=torch.Generator().manual_seed(0))
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = (
        NoisySGD([mine], lr=0.1, temperature=0.0, weight_decay=0.01),
        torch.optim.SGD([theirs], lr=0.1, weight_decay=0.01),
    )
    for _ in range(10):
        for w, optimizer in zip((mine, theirs), optimizers, strict=True):
            w.grad = w.detach().sin()
            optimizer.step()
    assert torch.equal(mine, theirs)


def test_the_number_of_the_step_is_in_its_state() -> None:
    whole = samples(5, lr=0.1, temperature=1.0)[-1]
    w = nn.Parameter(samples(3, lr=0.1, temperature=1.0)[-1])
    earlier, optimizer = (
        NoisySGD([w], lr=0.1, temperature=1.0),
        NoisySGD([w], lr=0.1, temperature=1.0),
    )
    for _ in range(3):
        # without a gradient nothing moves, but the step counts
        earlier.step()
    optimizer.load_state_dict(earlier.state_dict())
    for _ in range(2):
        w.grad = w.detach().clone()
        optimizer.step()
    assert torch.equal(w, whole)


def trained(out: Path) -> dict[str, Tensor]:
    return load_file(out / "last/training/weights.safetensors")


def test_a_run_without_noise_is_that_of_sgd_to_the_bit(run: Run, tmp_path: Path) -> None:
    for out, optimizer in (("sgd", "sgd:lr=0.01"), ("noisy", "noisy_sgd:lr=0.01,temperature=0")):
        fit(replace(run, optimizer=optimizer), tmp_path / out, device="cpu")
    for file in ("best/model.safetensors", "last/training/weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "sgd" / file).read_bytes() == (tmp_path / "noisy" / file).read_bytes()


def test_a_run_goes_on_with_the_noise_of_its_steps(run: Run, tmp_path: Path) -> None:
    run = replace(run, optimizer="noisy_sgd:lr=0.01,temperature=1e-4", steps=6)
    fit(run, tmp_path / "whole", device="cpu")
    fit(replace(run, steps=3), tmp_path / "parts", device="cpu")
    fit(run, tmp_path / "parts", resume=True, device="cpu")
    whole, parts = trained(tmp_path / "whole"), trained(tmp_path / "parts")
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    fit(replace(run, optimizer="noisy_sgd:lr=0.01,temperature=0"), tmp_path / "quiet", device="cpu")
    assert not torch.equal(
        whole["head.linear.weight"], trained(tmp_path / "quiet")["head.linear.weight"]
    )


@pytest.mark.slow
def test_processes_that_share_the_weights_draw_the_noise_of_one(run: Run, tmp_path: Path) -> None:
    one = replace(
        run,
        model=replace(run.model, dropout=0.0),
        data=replace(run.data, batch_size=4),
        optimizer="noisy_sgd:lr=0.01,temperature=1e-4",
        clip_norm=None,
        steps=3,
    )
    two = replace(one, data=replace(one.data, batch_size=2), devices=2, strategy="fsdp")
    done = fit_in_two(tmp_path, (two, "two", False))
    assert done.returncode == 0, done.stderr
    fit(one, tmp_path / "one", device="cpu")
    spread = trained(tmp_path / "two")
    for name, value in trained(tmp_path / "one").items():
        torch.testing.assert_close(spread[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("lr=-1", "lr=-1.*from 0 up"),
        ("temperature=-1", "temperature=-1.*from 0 up"),
        ("weight_decay=-1", "weight_decay=-1.*from 0 up"),
    ],
)
def test_numbers_without_a_meaning_are_refused(run: Run, settings: str, why: str) -> None:
    with pytest.raises(SpeechkitError, match=why):
        dry_run(replace(run, optimizer=f"noisy_sgd:{settings}"))
