"""Training of pruned models: what is 0 stays 0."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from speechkit_compression.keep_zeros import KeepZeros
from speechkit_compression.magnitude import Magnitude
from speechkit_compression.weights import TARGETS, prunable

import speechkit as sk
from speechkit.errors import TrainingError
from speechkit.testing.runs import assert_same_files, fit_in_parts, fit_in_two
from speechkit.train import Data, Method, Run, dry_run, fit

SHARE = 0.6


@pytest.fixture
def run(corpus: Callable[..., Path], tmp_path: Path) -> Run:
    """Seven steps from a pruned clip classifier of two tones."""
    blocks = (
        sk.Block(channels=8, kernel=5, stride=2),
        sk.Block(channels=8, kernel=5, repeat=2, residual=True),
        sk.Block(channels=8, kernel=1, mixer="gru"),
    )
    model = sk.MatchboxNet(
        labels=("low", "high"), blocks=blocks, frontend="log_mel:n_mels=16", dropout=0.2
    )
    made, _ = Magnitude(SHARE, targets=" ".join(TARGETS))(sk.build(model, 1).eval(), None)
    sk.save(made, tmp_path / "pruned")
    manifest = corpus(8)
    return Run(
        model=model,
        data=Data(train=manifest, dev=manifest, batch_size=4),
        steps=7,
        optimizer="adamw:lr=0.01,weight_decay=0.1",
        schedule="constant",
        augment=("white_noise",),
        method=("keep_zeros",),
        start_from=tmp_path / "pruned",
        ema=0.9,
        clip_norm=1.0,
        eval_every=3,
        save_every=2,
        log_every=1,
    )


def zero(model: sk.Model) -> torch.Tensor:
    return torch.cat([w.detach().flatten() == 0 for w in prunable(model).values()])


def test_paper_045_zeros_stay_0_in_the_weights_and_their_average(run: Run, tmp_path: Path) -> None:
    fit(replace(run, steps=100, eval_every=100, save_every=100), tmp_path / "out", device="cpu")
    mask = zero(sk.load(tmp_path / "pruned"))
    assert float(mask.double().mean()) == pytest.approx(SHARE, abs=0.01)
    # the averaged weights are saved as the model, those of the last step beside them
    assert torch.equal(zero(sk.load(tmp_path / "out/last")), mask)
    model = sk.build(run.model)
    model.load_state_dict(load_file(tmp_path / "out/last/training/weights.safetensors"))
    assert torch.equal(zero(model), mask)
    before, after = (prunable(sk.load(tmp_path / folder)) for folder in ("pruned", "out/last"))
    assert all(not torch.equal(w, before[name]) for name, w in after.items())


class Noise(Method):
    """Noise on every gradient, after clipping."""

    def before_step(self, model: sk.Model, step: int) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad += 1.0


def test_no_other_method_or_optimizer_moves_them(run: Run) -> None:
    model = sk.load(run.start_from or "").train()
    mask, keep = zero(model), KeepZeros()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def again() -> float:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return 1.5

    assert keep.gradients(again, model, 1) == 1.5
    gradients = torch.cat(
        [w.grad.flatten() for w in prunable(model).values() if w.grad is not None]
    )
    # of pruned weights 0, so that they have no part in the norm of the gradient
    assert torch.equal(gradients, (~mask).float())
    for name, parameter in model.named_parameters():
        if name not in prunable(model):
            assert parameter.grad is not None
            assert (parameter.grad == 1).all(), name
    Noise().before_step(model, 1)
    optimizer.step()
    assert not torch.equal(zero(model), mask)
    keep.after_step(model, 1, optimizer)
    assert torch.equal(zero(model), mask)


def test_training_is_that_of_the_product_with_the_mask(run: Run, tmp_path: Path) -> None:
    """With clipping and weight decay, W = mask · W' is trained as W is with the method."""
    model, masked = (sk.load(run.start_from or "").train() for _ in range(2))
    masks = {name: (w != 0).float() for name, w in prunable(model).items()}
    x = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([4000, 3000])
    keep = KeepZeros()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (model, masked)]

    def loss(net: sk.Model, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        torch.manual_seed(1)
        out: sk.Output = torch.func.functional_call(net, weights, (x, lengths))
        return out.scores.square().sum()

    for step in range(1, 6):

        def again() -> float:
            model.zero_grad()
            value = loss(model, {})
            value.backward()
            return value.item()

        keep.gradients(again, model, step)
        masked.zero_grad()
        loss(masked, {n: w * masks[n] for n, w in prunable(masked).items()}).backward()
        for net, optimizer in zip((model, masked), optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
        keep.after_step(model, step, optimizers[0])
    for name, parameter in masked.named_parameters():
        wanted = parameter * masks.get(name, 1.0)
        torch.testing.assert_close(model.get_parameter(name), wanted, rtol=0, atol=1e-7)


def test_a_run_goes_on_bit_by_bit(run: Run, tmp_path: Path) -> None:
    fit(run, tmp_path / "whole", device="cpu")
    fit_in_parts(run, tmp_path / "parts")
    assert_same_files(tmp_path / "whole", tmp_path / "parts")


def test_a_model_that_is_not_pruned_is_refused(run: Run, tmp_path: Path) -> None:
    plain = replace(run, start_from=None)
    message = "no weight of the model is 0; give start_from=FOLDER"
    with pytest.raises(TrainingError, match=message):
        dry_run(plain)
    with pytest.raises(TrainingError, match=message):
        fit(plain, tmp_path / "out", device="cpu")


def test_fsdp_is_refused_in_a_line(run: Run) -> None:
    with pytest.raises(TrainingError, match=r"method keep_zeros .*; give strategy=ddp"):
        dry_run(replace(run, devices=2, strategy="fsdp"))


def test_two_processes_are_as_one_with_twice_the_batch(run: Run, tmp_path: Path) -> None:
    run = replace(run, model=replace(run.model, dropout=0.0), steps=4)
    half = replace(run, data=replace(run.data, batch_size=2), devices=2)
    done = fit_in_two(tmp_path, (half, "two", False))
    assert done.returncode == 0, done.stderr
    fit(run, tmp_path / "one", device="cpu")
    one, two = (
        load_file(tmp_path / out / "last/training/weights.safetensors") for out in ("one", "two")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5, msg=name)
    mask = zero(sk.load(tmp_path / "pruned"))
    assert torch.equal(zero(sk.load(tmp_path / "two/last")), mask)
