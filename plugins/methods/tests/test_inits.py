"""Initial weights: the variance through an activation, small and balanced ones."""

import math

import pytest
import torch
from speechkit_methods.inits import gain_of, small_balanced
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


def last_two(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The weights of each neuron's input, `[neurons, n]`, and of its output, `[m, neurons]`."""
    *_, w, v = drawn_weights(model)
    return w.detach().flatten(1), v.detach()


def test_small_balanced_weights_are_as_large_into_a_neuron_as_out_of_it() -> None:
    w, v = last_two(net(init="small_balanced:size=0.01"))
    torch.testing.assert_close(v.norm(dim=0), w.norm(dim=1))
    assert w.std().item() == pytest.approx(0.01, rel=0.05)
    # directions are random
    assert abs(float(v[0].sign().mean())) < 0.5
    others, plain = net(init="small_balanced"), net(init="xavier_uniform")
    for one, other in zip([*drawn_weights(others)][:-2], [*drawn_weights(plain)][:-2], strict=True):
        assert torch.equal(one, other)


def alignment(size: float) -> tuple[float, float]:
    """The mean |cos| of the neurons of a net of two layers to the difference of two classes, at
    first and after 30 steps."""
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([1.0, -1.0]).repeat(20)
    direction = torch.randn(20, generator=generator)
    x = y[:, None] * (direction + 0.5 * torch.randn(40, 20, generator=generator))
    model = nn.Sequential(nn.Linear(20, 50, bias=False), nn.ReLU(), nn.Linear(50, 1, bias=False))
    small_balanced(size)(model, generator)
    cosines = []
    for step in range(31):
        if step in (0, 30):
            rows, mean = last_two(model)[0], (y[:, None] * x).mean(0)
            cosines.append(float(nn.functional.cosine_similarity(rows, mean).abs().mean()))
        loss = nn.functional.softplus(-y * model(x)[:, 0]).mean()
        gradients = torch.autograd.grad(loss, [*model.parameters()])
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                weight.sub_(gradient, alpha=0.1)
    return cosines[0], cosines[1]


def test_paper_017_from_small_weights_the_neurons_align() -> None:
    first, last = alignment(1e-4)
    assert first < 0.3
    assert last > 0.95
    first, last = alignment(1.0)
    assert first < 0.3
    assert last < 0.6


def test_paper_017_gradient_descent_keeps_the_balance() -> None:
    # ‖v_j‖² − ‖w_j‖² is constant under gradient flow
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    small_balanced(0.1)(model, torch.Generator().manual_seed(0))
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    w, v = model.parameters()
    before = w.norm(dim=1).clone()
    for _ in range(1000):
        gradients = torch.autograd.grad((model(x)[:, 0] - x[:, 0]).square().mean(), [w, v])
        with torch.no_grad():
            w.sub_(gradients[0], alpha=1e-3)
            v.sub_(gradients[1], alpha=1e-3)
    assert not torch.allclose(w.norm(dim=1), before, rtol=0.1)
    torch.testing.assert_close(v.norm(dim=0), w.norm(dim=1), rtol=0.01, atol=0)


def test_small_balanced_needs_two_layers_in_a_row() -> None:
    generator = torch.Generator()
    for model in (nn.Linear(3, 4), nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])):
        with pytest.raises(ComponentError, match="init small_balanced: the last weights are"):
            small_balanced()(model, generator)
    with pytest.raises(ComponentError, match="size=0; give a number above 0"):
        net(init="small_balanced:size=0")
