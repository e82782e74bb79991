"""A front end with weights learns like the rest of the net; one without costs no gradients."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from speechkit.component import Component
from speechkit.data import Batch
from speechkit.frontend import LogMel
from speechkit.hookspecs import hookimpl
from speechkit.models import Model, build
from speechkit.nn import FrameWise, Serial
from speechkit.plugins import registry
from speechkit.train import Data, Method, Run, fit
from speechkit.train.batches import batch_features, run_augmentations

Corpus = Callable[..., Path]
WEIGHTS = "last/training/weights.safetensors"
GAIN = "frontend.1.module.weight"


class Gain(nn.Module):
    """y = w x, in training with noise of torch's own random numbers."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.1), requires_grad=learned)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + 0.1 * self.training * torch.randn_like(x)


def gain(sample_rate: int, learned: bool = True) -> Serial:
    return Serial(LogMel(sample_rate, n_mels=16, normalize="none"), FrameWise(Gain(learned)))


class Repeating(Method):
    """Computes the gradients of a step three times, the last time with twice the gain."""

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        weights = dict(model.named_parameters())
        loss, first = again(), {name: weight.grad for name, weight in weights.items()}
        assert again() == loss
        for name, weight in weights.items():
            if weight.requires_grad:
                assert first[name] is not None
                assert torch.equal(weight.grad, first[name]), name
        with torch.no_grad():
            weights[GAIN].mul_(2)
        assert (again() == loss) != weights[GAIN].requires_grad
        with torch.no_grad():
            weights[GAIN].div_(2)
        return again()


@pytest.fixture(autouse=True)
def acme() -> Iterator[None]:
    """The front end `gain` and the method `repeating`."""
    about = {"summary": "For a test", "formula": "x"}
    plugin: Any = ModuleType("acme")
    plugin.speechkit_frontends = hookimpl(lambda: [Component(name="gain", factory=gain, **about)])
    plugin.speechkit_methods = hookimpl(
        lambda: [Component(name="repeating", factory=Repeating, **about)]
    )
    registry().add(plugin, "acme")
    yield
    registry()._forget(plugin, "acme")


@pytest.fixture(params=["learned", "fixed"])
def run(request: pytest.FixtureRequest, nets: dict[str, Any], corpus: Corpus) -> Run:
    """Steps of two batches with all that draws random numbers, and a gain that learns or not."""
    frontend = "gain" if request.param == "learned" else "gain:learned=false"
    return Run(
        model=replace(nets["clip"], frontend=frontend, dropout=0.2),
        data=Data(train=corpus(8, "train"), dev=corpus(4, "dev"), batch_size=3),
        steps=3,
        augment=("speed", "white_noise", "tempo", "spec_augment"),
        accumulate=2,
        eval_every=3,
        save_every=3,
    )


def test_features_have_gradients_only_where_the_front_end_learns(run: Run) -> None:
    model = build(run.model, seed=1).eval()
    audio, lengths = 0.1 * torch.randn(2, 6400), torch.tensor([6400, 4000])
    target = torch.zeros(2, dtype=torch.long)
    batch = Batch(audio, lengths, target, torch.ones_like(target), [0, 1], ["a", "b"])
    features = batch_features(model, batch, run_augmentations(run)[-1], seed=0, epoch=0)
    learns = dict(model.named_parameters())[GAIN].requires_grad
    assert features.x.requires_grad == learns
    plain = batch_features(model, batch, [], seed=0, epoch=0)
    with torch.no_grad():
        assert torch.equal(plain.x, model.features(audio, lengths).x)


def test_a_front_end_learns(run: Run, tmp_path: Path) -> None:
    fit(run, tmp_path / "out", device="cpu")
    learned = load_file(tmp_path / "out" / WEIGHTS)[GAIN]
    assert (learned != 0.1) == ("learned" not in str(run.model.frontend))


def test_a_step_repeats_itself_with_the_weights_of_the_front_end(run: Run, tmp_path: Path) -> None:
    fit(replace(run, method=("repeating",)), tmp_path / "repeated", device="cpu")
    fit(run, tmp_path / "plain", device="cpu")
    plain, repeated = (tmp_path / out / WEIGHTS for out in ("plain", "repeated"))
    assert plain.read_bytes() == repeated.read_bytes()
