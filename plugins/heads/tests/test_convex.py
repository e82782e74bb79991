"""The head of a convex program: the value of its network, its worst loss, and its model folder."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from speechkit_heads.convex import ConvexFit, Solution, patterns_of, solve, with_one

import speechkit as sk
from speechkit.cli import main
from speechkit.data import Utterance, write_manifest
from speechkit.errors import ComponentError, ConfigError, MissingExtraError
from speechkit.models import Block, Model
from speechkit.probes import Examples
from speechkit.transforms import transform

MISSING = importlib.util.find_spec("cvxpy") is None
needs_cvxpy = pytest.mark.skipif(MISSING, reason="cvxpy is not installed")
BETA = 0.1


def points() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seven points of two channels, with a number for each."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((7, 2)), generator.standard_normal(7)


def objective(found: Solution, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """½ Σ (f − y)² + ½ β (‖W‖² + ‖α‖²)."""
    penalty = np.square(found.neurons).sum() + np.square(found.weights).sum()
    return float(0.5 * np.square(found.scores(x) - y).sum() + 0.5 * BETA * penalty)


def worst(found: Solution, x: NDArray[np.float64], y: NDArray[np.float64], eps: float) -> float:
    """The mean over the points of the largest hinge loss at the corners of ±eps around each."""
    corners = eps * np.array([[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)])
    losses = [np.maximum(0, 1 - y * found.scores(x + corner)) for corner in corners]
    return float(np.max(losses, axis=0).mean())


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings of noise with a loud middle, which is speech."""
    folder = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    rows = []
    for index in range(6):
        sound = generator.normal(0, 0.003, 16000 + 800 * index)
        sound[4000:10000] *= 30
        path = folder / f"{index}.wav"
        soundfile.write(path, sound, 16000)
        rows.append(Utterance(audio=path, duration_s=len(sound) / 16000, segments=((0.25, 0.625),)))
    write_manifest(folder / "all.jsonl", rows)
    return folder / "all.jsonl"


def model(**fields: Any) -> Model:
    blocks = (Block(channels=8, kernel=5, stride=2), Block(channels=6, kernel=1, separable=False))
    frontend = "log_mel:n_mels=8,normalize=none"
    return sk.build(
        sk.MarbleNet(frame_level=True, blocks=blocks, frontend=frontend, **fields)
    ).eval()


@needs_cvxpy
def test_the_network_has_the_value_of_the_program_and_no_training_beats_it() -> None:
    x, y = points()
    every = patterns_of(x, 20000, np.random.default_rng(1))
    found = solve(x, y, every, BETA, loss="squared")
    assert objective(found, x, y) == pytest.approx(found.value, abs=1e-6)
    torch.manual_seed(0)
    # three networks at once, by gradient descent
    both = [(0.3 * torch.randn(3, n, 30)).double().requires_grad_() for n in (3, 1)]
    for _ in range(400):
        f = (torch.relu(torch.from_numpy(with_one(x)) @ both[0]) * both[1]).sum(2)
        penalty = sum(part.square().sum((1, 2)) for part in both)
        losses = 0.5 * (f - torch.from_numpy(y)).square().sum(1) + 0.5 * BETA * penalty
        gradients = torch.autograd.grad(losses.sum(), both)
        both = [
            (p - 0.05 * g).detach().requires_grad_() for p, g in zip(both, gradients, strict=True)
        ]
    assert found.value < float(losses.detach().min()) < 1.1 * found.value


@needs_cvxpy
def test_more_patterns_never_raise_the_value() -> None:
    x, y = points()
    drawn = patterns_of(x, 30, np.random.default_rng(2))
    values = [solve(x, y, drawn[:, :n], BETA, loss="squared").value for n in (1, 4, 16)]
    assert values[0] > values[1] > values[2] - 1e-9


@needs_cvxpy
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3])
def test_the_worst_hinge_loss_of_the_network_is_that_of_the_program(eps: float) -> None:
    x, y = points()
    y = np.sign(y)
    found = solve(x, y, patterns_of(x, 2000, np.random.default_rng(1)), 0.01, eps)
    assert worst(found, x, y, eps) == pytest.approx(found.loss, abs=1e-5)
    plain = solve(x, y, patterns_of(x, 2000, np.random.default_rng(1)), 0.01)
    assert worst(found, x, y, eps) <= worst(plain, x, y, eps) + 1e-6


def test_patterns_are_those_of_directions_each_once_and_that_of_all_frames() -> None:
    x, _ = points()
    few, many = (patterns_of(x, n, np.random.default_rng(1)) for n in (0, 5000))
    assert few.tolist() == [[1.0]] * 7
    assert len(np.unique(many, axis=1).T) == many.shape[1]
    # lines through seven points in general position, and the whole plane on either side
    assert 35 <= many.shape[1] <= 2 * (1 + 6 + 15)
    assert (many.min(axis=0) == 1).any()


@needs_cvxpy
def test_the_fitted_model_is_an_ordinary_folder(speech: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = model()
    sk.save(before, tmp_path / "before")
    given = [str(tmp_path / "before"), str(tmp_path / "after"), "--manifest", str(speech)]
    assert main.run(["transform", *given, "--with", "convex_fit:patterns=8,frames=60"]) == 0
    after = sk.load(tmp_path / "after")
    assert main.run(["evaluate", str(tmp_path / "after"), "--manifest", str(speech)]) == 0
    for name, value in before.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(after.state_dict()[name], value)
    features = next(iter(Examples(after, speech)))
    scores = after.score(features[1]).scores
    assert (scores[:, :, 0] == 0).all()
    target, _ = Examples(after, speech).targets(after.score(features[1]), features[0])
    right = ((scores[:, :, 1] > 0) == (target == 1))[target >= 0]
    assert right.double().mean() > 0.9


@needs_cvxpy
@torch.no_grad()
def test_the_model_scores_frames_as_the_program_does(speech: Path) -> None:
    torch.manual_seed(0)
    before = model()
    examples, specs = Examples(before, speech), ["convex_fit:frames=10000,patterns=4"]
    made, (applied,) = transform(before, specs, examples)
    assert transform(before, specs, examples)[1][0].report == applied.report
    losses = []
    for batch, features in examples.of(made):
        output = made.score(features)
        target, _ = examples.of(made).targets(output, batch)
        f = output.scores[:, :, 1][target >= 0]
        losses.append((1 - (2 * target[target >= 0] - 1) * f).clamp(min=0))
    assert float(torch.cat(losses).mean()) == pytest.approx(applied.report["loss"], abs=1e-4)


def test_other_nets_and_settings_are_refused(speech: Path) -> None:
    with pytest.raises(ConfigError, match="needs recordings; give --manifest M"):
        ConvexFit()(model(), None)
    three = model(labels=("a", "b", "c"))
    with pytest.raises(ConfigError, match=r"takes a net with 2 labels .* not one with 3 labels"):
        ConvexFit()(three, Examples(three, speech))
    for wrong in ({"beta": 0.0}, {"frames": 0}, {"epsilon": -1.0}, {"patterns": -1}):
        with pytest.raises(ComponentError, match="give beta and frames above 0"):
            ConvexFit(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ComponentError, match="give loss=hinge, or loss=squared with epsilon=0"):
        ConvexFit(loss="squared", epsilon=0.1)


@pytest.mark.skipif(not MISSING, reason="cvxpy is installed")
def test_without_cvxpy_the_extra_is_named() -> None:
    x, y = points()
    with pytest.raises(MissingExtraError, match=r"pip install 'speechkit-heads\[convex\]'"):
        solve(x, y, patterns_of(x, 1, np.random.default_rng(0)), BETA)
