"""Methods in runs: what they compute, that nothing of them is nothing, and how they go on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from speechkit_methods.noise import GradientNoise
from speechkit_methods.sam import SAM
from torch import Tensor

from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, build
from speechkit.nn import BatchNorm
from speechkit.testing.runs import assert_same_files, fit_in_parts, fit_in_two
from speechkit.train import Run, dry_run, fit

METHODS = {
    "sam": "gradients",
    "sam:adaptive=true": "gradients",
    "grad_noise:eta=0.001": "before_step",
    "hypernet:n=16": "before_step and after_step",
    "relora:rank=2,every=2,warm=1": "before_step and after_step",
    "mobiletl:blocks=2": "gradients",
    "folding_reg": None,
    "branch_power_decay": "gradients",
}
"""The methods, and the calls for which each is refused with strategy=fsdp."""


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "last/training/weights.safetensors")


NOTHING = (
    "sam:rho=0",
    "sam:rho=0,adaptive=true",
    "grad_noise:eta=0",
    "folding_reg:weight=0",
    "branch_power_decay:weight=0",
)


@pytest.mark.parametrize("method", NOTHING)
def test_a_method_of_nothing_is_the_plain_run_to_the_bit(
    run: Run, tmp_path: Path, method: str
) -> None:
    fit(run, tmp_path / "plain", device="cpu")
    fit(replace(run, method=(method,)), tmp_path / "nothing", device="cpu")
    assert_same_files(tmp_path / "plain", tmp_path / "nothing")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_bit_by_bit(run: Run, tmp_path: Path, method: str) -> None:
    run = replace(run, method=(method,))
    fit(run, tmp_path / "whole", device="cpu")
    fit_in_parts(run, tmp_path / "parts")
    assert_same_files(tmp_path / "whole", tmp_path / "parts")
    fit(replace(run, method=()), tmp_path / "plain", device="cpu")
    plain, changed = weights(tmp_path / "plain"), weights(tmp_path / "whole")
    assert not torch.equal(plain["head.linear.weight"], changed["head.linear.weight"])


def parabola(model: Model) -> float:
    """½ Σ w² and its gradient."""
    loss = torch.stack([0.5 * p.square().sum() for p in model.parameters()]).sum()
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.num_batches_tracked += 1
    return float(loss.detach())


def test_sam_takes_the_gradient_at_the_distance_rho_along_the_gradient(run: Run) -> None:
    model = build(run.model)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    norm = torch.cat([p.detach().flatten() for p in model.parameters()]).norm()
    loss = SAM(rho=0.5).gradients(lambda: parabola(model), model, 1)
    assert loss == pytest.approx(0.5 * float(norm) ** 2)
    for parameter in model.parameters():
        torch.testing.assert_close(parameter.grad, parameter.detach() * (1 + 0.5 / norm))
    for name, value in model.state_dict().items():
        counted = 1 if name.endswith("num_batches_tracked") else 0
        assert torch.equal(value, before[name] + counted), name


def test_paper_090_adaptive_sam_moves_each_weight_by_its_square(run: Run) -> None:
    model = build(run.model)
    w = torch.cat([p.detach().flatten() for p in model.parameters()])
    SAM(rho=0.5, adaptive=True).gradients(lambda: parabola(model), model, 1)
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    # of ½ Σ w² the gradient at w is w itself
    torch.testing.assert_close(found, w + 0.5 * w**3 / w.square().norm())


def test_sam_leaves_gradients_that_overflowed_as_they_are(run: Run) -> None:
    model = build(run.model)
    calls = []

    def overflowing() -> float:
        calls.append(parabola(model))
        next(model.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]
        return calls[-1]

    assert SAM().gradients(overflowing, model, 1) == calls[0]
    assert len(calls) == 1


def test_noise_has_its_deviation_and_follows_from_seed_and_step(run: Run) -> None:
    model = build(run.model)

    def noise(method: GradientNoise, step: int) -> Tensor:
        parabola(model)
        method.before_step(model, step)
        return torch.cat(
            [(p.grad - p.detach()).flatten() for p in model.parameters() if p.grad is not None]
        )

    one = noise(GradientNoise(eta=4.0, gamma=1.0), 1)
    later = noise(GradientNoise(eta=4.0, gamma=1.0), 4)
    assert float(one.std()) == pytest.approx(2, rel=0.1)
    assert float(later.std()) == pytest.approx(1, rel=0.1)
    torch.testing.assert_close(one, noise(GradientNoise(eta=4.0), 1))
    other = GradientNoise(eta=4.0)
    other.run_seed = 1
    assert not torch.allclose(one, noise(other, 1))


@pytest.mark.parametrize(
    "method", ["sam:rho=-1", "grad_noise:eta=-1", "branch_power_decay:weight=-1"]
)
def test_numbers_below_0_are_refused(run: Run, tmp_path: Path, method: str) -> None:
    with pytest.raises(ComponentError, match=r"=-1; give a number from 0 up"):
        fit(replace(run, method=(method,)), tmp_path / "out", device="cpu")


@pytest.mark.parametrize("method", [method for method, calls in METHODS.items() if calls])
def test_fsdp_is_refused_in_a_line(run: Run, method: str) -> None:
    refused = f"method {method} .* in {METHODS[method]}, .*give strategy=ddp"
    with pytest.raises(TrainingError, match=refused):
        dry_run(replace(run, method=(method,), devices=2, strategy="fsdp"))


def test_two_processes_are_as_one_with_twice_the_batch(run: Run, tmp_path: Path) -> None:
    run = replace(
        run,
        model=replace(run.model, dropout=0.0),
        data=replace(run.data, batch_size=4),
        steps=4,
    )
    half = replace(run, data=replace(run.data, batch_size=2), devices=2)
    runs = [(replace(half, method=(method,)), f"{method}/two", False) for method in METHODS]
    done = fit_in_two(tmp_path, *runs)
    assert done.returncode == 0, done.stderr
    for method in METHODS:
        fit(replace(run, method=(method,)), tmp_path / method / "one", device="cpu")
        one, other = weights(tmp_path / method / "one"), weights(tmp_path / method / "two")
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=0, atol=1e-5, msg=f"{method} {key}")
        files = [tmp_path / method / out / "metrics.jsonl" for out in ("one", "two")]
        rows = [file.read_text().splitlines() for file in files]
        for mine, theirs in zip(*(map(json.loads, lines) for lines in rows), strict=True):
            assert theirs == pytest.approx(mine, abs=1e-4), method
