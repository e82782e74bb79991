"""Polynomials in the places of a trained net's ReLUs, and how many ReLUs there are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_activations.adaptive import ReluOrPoly, relu_fit
from speechkit_activations.dapa import fit_error, moments

import speechkit as sk
from speechkit.errors import ComponentError, ConfigError
from speechkit.models import Block, MatchboxNet, Model
from speechkit.nn import Chunk
from speechkit.probes import Examples, probe
from speechkit.transforms import transform

BLOCKS = (
    Block(channels=8, kernel=5, stride=2),
    Block(channels=6, kernel=5, repeat=2, residual=True),
    Block(channels=4, kernel=3, stride=2),
)
TOTAL = 2 * 8 + 2 * 6 * 2 + 4
"""The ReLUs for each frame of scores: those before the second stride count twice."""


def net(activation: str = "relu") -> MatchboxNet:
    frontend = "log_mel:n_mels=16,normalize=running"
    return MatchboxNet(
        labels=("low", "high"), blocks=BLOCKS, frontend=frontend, activation=activation
    )


@pytest.fixture
def model() -> Model:
    """A net whose weights and statistics are not its first ones."""
    made = sk.build(net(), 1).train()
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=chance)
        for _ in range(5):
            made(0.1 * torch.randn(4, 6400, generator=chance))
    return made.eval()


def with_polynomials(model: Model, noise: Path, params: str) -> tuple[Model, dict[str, Any]]:
    made, (applied,) = transform(model, [f"dapa:{params}"], Examples(model, noise))
    return made, applied.report


def layers(model: Model) -> dict[str, ReluOrPoly]:
    return {name: m for name, m in model.named_modules() if isinstance(m, ReluOrPoly)}


def scores(model: Model) -> torch.Tensor:
    with torch.no_grad():
        x = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(2))
        return model.score(Chunk.of(x)).scores


def test_paper_051_with_the_whole_budget_no_score_changes(model: Model, noise: Path) -> None:
    made, report = with_polynomials(model, noise, "budget=1")
    assert torch.equal(scores(made), scores(model))
    assert report["relus_per_frame"] == [TOTAL, TOTAL]
    assert not any(layer.frozen for layer in layers(made).values()), "relu_budget may turn them"
    assert str(made.config.activation) == "relu_or_poly:degree=2,fit_calls=0"


@pytest.mark.parametrize("budget", [0.0, 0.25, 0.6])
def test_paper_051_the_kept_relus_are_within_the_budget(
    model: Model, noise: Path, budget: float
) -> None:
    made, report = with_polynomials(model, noise, f"budget={budget}")
    rates = [2, 2, 2, 1]
    kept = [int(layer.on.sum()) for layer in layers(made).values()]
    count = sum(rate * n for rate, n in zip(rates, kept, strict=True))
    assert budget * TOTAL - 2 < count <= budget * TOTAL
    assert report["relus_per_frame"] == [TOTAL, count]
    assert report["relus_per_s"] == [round(n / model.frame_s) for n in (TOTAL, count)]
    assert all(layer.frozen for layer in layers(made).values())
    found = probe(made, ["relus"], Examples(made, noise))["relus"]
    assert found["per_frame"] == count
    assert found["per_s"].item() == pytest.approx(count / model.frame_s)
    assert list(report["relus"].values()) == [int(found[name]) for name in report["relus"]]


@pytest.mark.parametrize("degree", [1, 2])
def test_paper_051_the_polynomials_are_fitted_to_the_input_of_each_channel(
    model: Model, noise: Path, degree: int
) -> None:
    made, _ = with_polynomials(model, noise, f"budget=0,degree={degree}")
    read = []
    last = model.get_submodule("encoder.1.after.activation")
    with torch.no_grad():
        hook = last.register_forward_pre_hook(
            lambda _, args: read.append(args[0].x.transpose(1, 2)[args[0].valid])
        )
        for _, features in Examples(model, noise, batch_size=1):
            model.score(features)
        hook.remove()
    x = torch.cat(read).double()
    expected = relu_fit(x.mean(0), x.std(0, correction=0), degree)
    layer = layers(made)["encoder.1.after.activation"]
    torch.testing.assert_close(layer.coefficients.detach(), expected.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer.running_variance, x.var(0, correction=0).float())


def test_padding_does_not_change_the_moments(model: Model, noise: Path) -> None:
    one, other = (moments(model, Examples(model, noise, batch_size=size)) for size in (1, 2))
    for name, pair in one.items():
        torch.testing.assert_close(pair, other[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("degree", [1, 2])
def test_the_error_is_that_of_draws_from_the_distribution(degree: int) -> None:
    mean, std = torch.tensor([0.3, -0.5]).double(), torch.tensor([1.5, 0.7]).double()
    fit = relu_fit(mean, std, degree)
    z = torch.randn(1_000_000, 2, generator=torch.Generator().manual_seed(0)).double()
    x = mean + std * z
    polynomial = sum(c * x**n for n, c in enumerate(fit))
    expected = (torch.relu(x) - polynomial).square().mean(0)
    torch.testing.assert_close(fit_error(mean, std, fit), expected, rtol=0.02, atol=0)


def test_the_channels_with_the_largest_error_keep_relu(model: Model, noise: Path) -> None:
    made, _ = with_polynomials(model, noise, "budget=0.4")
    found = moments(model, Examples(model, noise))
    errors = {name: fit_error(*pair, relu_fit(*pair, 2)) for name, pair in found.items()}
    on = torch.cat([layer.on for layer in layers(made).values()])
    each = torch.cat(list(errors.values()))
    assert 0 < on.sum() < len(on)
    assert each[on].min() > each[~on].max()


def test_the_controls_are_x_and_0(model: Model, noise: Path) -> None:
    x = torch.randn(1, 4, 9)
    for fill, wanted in (("identity", x), ("zero", torch.zeros_like(x))):
        made, _ = with_polynomials(model, noise, f"budget=0,fill={fill}")
        y = layers(made)["encoder.1.after.activation"](Chunk.of(x)).x
        assert torch.equal(y, wanted)


def test_it_is_saved_and_trained_on_with_the_same_switches(
    model: Model, noise: Path, tmp_path: Path
) -> None:
    made, _ = with_polynomials(model, noise, "budget=0.5")
    sk.save(made, tmp_path / "made")
    again = sk.load(tmp_path / "made")
    assert torch.equal(scores(again), scores(made))
    again.train()
    again(0.1 * torch.randn(2, 6400))
    for name, layer in layers(again).items():
        assert torch.equal(layer.on, layers(made)[name].on)
        assert torch.equal(layer.coefficients, layers(made)[name].coefficients), "no new fit"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ("budget=2", "dapa: budget=2; give a share from 0 to 1"),
        ("degree=3", "dapa: degree=3; give 1 or 2"),
        ("fill=one", "dapa: fill=one; give one of fit, identity, zero"),
    ],
)
def test_wrong_parameters_are_one_line(model: Model, noise: Path, params: str, says: str) -> None:
    with pytest.raises(ComponentError, match=says):
        with_polynomials(model, noise, params)


def test_a_net_of_other_activations_is_refused(noise: Path) -> None:
    smooth = sk.build(net("silu")).eval()
    with pytest.raises(ConfigError, match="dapa takes a net with activation=core/relu, not"):
        with_polynomials(smooth, noise, "budget=0.5")
    with pytest.raises(ConfigError, match="dapa needs recordings; give --manifest M"):
        transform(sk.build(net()).eval(), ["dapa"])


def test_relus_before_products_are_counted_and_other_activations_not(noise: Path) -> None:
    found = {}
    for activation, channel in (("silu", "linear"), ("silu", "relu_linear"), ("relu", "linear")):
        model = sk.build(replace(net(activation), channel=channel)).eval()
        counts = probe(model, ["relus"], Examples(model, noise))["relus"]
        found[activation, channel] = int(counts["per_frame"])
    # each sub-block's product reads as many channels as its mixer; so does that of the shortcut
    between = 2 * 16 + 2 * (8 + 6 + 8) + 6
    assert found == {
        ("silu", "linear"): 0,
        ("silu", "relu_linear"): between,
        ("relu", "linear"): TOTAL,
    }
