"""Initial weights that preserve the variance through an activation."""

import math

import pytest
import torch
from speechkit_methods.inits import gain_of
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.models.inits import drawn_weights
from speechkit.plugins import registry

# v · √fan_in, from the slope and the value at 0
GAINS = {
    "sigmoid": 3.578,
    "tanh": 1.0,
    "relu": math.sqrt(2),
    "gelu": 2.0,
    "silu": 2.0,
    "mish": 1.667,
    "softplus": 1.644,
    "elu": 1.0,
}


def net(**changes: object) -> Model:
    settings = {"size": "3x1x64", "labels": ("no", "yes"), "init": "kumar", **changes}
    return sk.build(sk.MatchboxNet(**settings))  # type: ignore[arg-type]


def test_every_other_activation_has_a_gain() -> None:
    refused = {"lisht", "fatrelu", "analog"}
    for entry in registry().components("activation"):
        component = entry.component
        if component.name not in refused and (component.in_factor, component.time) == (1, "frame"):
            assert 0.1 < gain_of(component.name) < 10, component.name


@pytest.mark.parametrize("name", GAINS)
def test_the_gain_is_that_of_the_paper(name: str) -> None:
    assert gain_of(name) == pytest.approx(GAINS[name], abs=1e-3)


def test_the_weights_of_a_net_have_it() -> None:
    model = net(activation="sigmoid")
    found = [weight for weight in drawn_weights(model) if weight.numel() > 2000]
    assert len(found) > 3
    for weight in found:
        expected = 3.578 / math.sqrt(weight[0].numel())
        assert weight.std().item() == pytest.approx(expected, rel=0.06)
        assert weight.mean().item() == pytest.approx(0, abs=0.05 * expected)
    # an activation named in the init counts, not the model's
    (one, other) = (
        next(drawn_weights(net(activation="relu", init=i)))
        for i in ("kumar", "kumar:activation=tanh")
    )
    torch.testing.assert_close(one, other * math.sqrt(2))


def backward_rms(gain: float, width: int = 512, layers: int = 10) -> float:
    """The gradient at the input of a net of dense layers with sigmoid."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, width, generator=generator).requires_grad_()
    h: Tensor = x
    for _ in range(layers):
        h = torch.sigmoid(
            h @ torch.randn(width, width, generator=generator) * gain / math.sqrt(width)
        )
    h.square().sum().backward()
    assert x.grad is not None
    return float(x.grad.square().mean().sqrt())


def test_gradients_pass_ten_layers_of_sigmoid() -> None:
    # Xavier: v² = 1 / fan_in for equal fans
    assert backward_rms(gain_of("sigmoid")) > 1000 * backward_rms(1.0)


def test_the_variance_passes_fifty_layers_of_relu() -> None:
    logs = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        h = torch.randn(64, 512, generator=generator)
        start = h.var()
        for _ in range(50):
            w = torch.randn(512, 512, generator=generator) * gain_of("relu") / math.sqrt(512)
            h = nn.functional.relu(h) @ w
        logs.append((h.var() / start).log())
    # with variance 1 / fan_in it would be 50 log 0.5
    assert math.log(0.2) < float(torch.stack(logs).mean()) < math.log(5)


def test_an_activation_that_has_no_gain_is_refused() -> None:
    for name, why in (
        ("lisht", "slope 0 at 0"),
        ("glu", "not elementwise"),
        ("linear_dc", "not elementwise"),
        ("abrelu_running", "not elementwise"),
        ("analog", "random"),
    ):
        with pytest.raises(ComponentError, match=f"init kumar: {name} .*{why}"):
            net(activation="relu", init=f"kumar:activation={name}")
