"""Weights of analog hardware: few levels, noise in each call."""

from collections.abc import Callable

import pytest
import torch
from speechkit_activations.analog import AnalogDepthwise, AnalogLinear, quantize
from torch import Tensor

import speechkit as sk
from speechkit.models import Block, MatchboxNet
from speechkit.nn import Chunk, DepthwiseConv, Pointwise, StreamLayer
from speechkit.testing import assert_close

Twins = Callable[[str], tuple[StreamLayer, StreamLayer]]


def linear(noisy: str) -> tuple[StreamLayer, StreamLayer]:
    return Pointwise(16, 12), AnalogLinear(16, 12, bits=3, leakage=0.5, noisy=noisy)


def depthwise(noisy: str) -> tuple[StreamLayer, StreamLayer]:
    shape = 16, 11, 2, 1, 3
    return DepthwiseConv(*shape), AnalogDepthwise(*shape, bits=3, leakage=0.5, noisy=noisy)


def frames() -> Chunk:
    x = torch.randn(2, 16, 20, generator=torch.Generator().manual_seed(0))
    return Chunk.of(x, torch.tensor([20, 13]))


@pytest.mark.parametrize("twins", [linear, depthwise])
def test_paper_064_weights_have_few_levels(twins: Twins) -> None:
    plain, analog = twins("training")
    weight: Tensor = plain.weight  # type: ignore[assignment]
    with torch.no_grad():
        weight.copy_(torch.linspace(-1.5, 1.5, weight.numel()).view_as(weight))
    # its weights are the plain layer's, by name and shape
    analog.load_state_dict(plain.state_dict())
    with torch.no_grad():
        weight.copy_(quantize(weight.clamp(-1, 1), 3))
    assert len(torch.unique(weight.mul(7).round())) == 15
    analog.eval()
    assert_close("y", plain(frames()).masked, analog(frames()).masked, 1e-6)
    state = analog.init_state(2, 16)
    again = plain.init_state(2, 16)
    one, other = plain.step(frames(), again)[0], analog.step(frames(), state)[0]
    assert_close("step", one.masked, other.masked, 1e-6)


def test_paper_064_noise_of_weights_has_the_given_leakage() -> None:
    layer = AnalogLinear(400, 400, bits=4, leakage=0.2)
    given = Chunk.of(torch.eye(400)[None])
    with torch.no_grad():
        first, second = layer.eval()(given).x[0], layer(given).x[0]
        noise = first - quantize(layer.weight, 4)
    assert (noise.abs() > 0.5 / 15).double().mean().item() == pytest.approx(0.2, abs=5e-3)
    assert not torch.equal(first, second), "each call draws its own"


@pytest.mark.parametrize("twins", [linear, depthwise])
def test_paper_064_weights_learn_where_they_are_not_clamped(twins: Twins) -> None:
    plain, analog = twins("always")
    with torch.no_grad():
        for layer in (plain, analog):
            layer.weight.fill_(0.3)  # type: ignore[operator,union-attr]
            layer.weight[0] = 1.5  # type: ignore[index]
    for layer in (plain, analog):
        layer(frames()).masked.square().sum().backward()
    gradients = [layer.weight.grad for layer in (plain, analog)]
    assert not gradients[1][0].any()  # type: ignore[index]
    assert gradients[1][1:].all()  # type: ignore[index]
    # the output is linear in the weights: noise moves the gradient of its square, not its mean
    for layer in (plain, analog):
        layer.weight.grad = None
        layer(frames()).masked.sum().backward()
    assert_close("dw", plain.weight.grad[1:], analog.weight.grad[1:], 1e-5)  # type: ignore[index,arg-type,union-attr]


def test_paper_064_a_net_of_analog_layers_takes_a_trained_ones_weights() -> None:
    torch.manual_seed(0)
    blocks = (
        Block(channels=8, kernel=5, stride=2),
        Block(channels=8, kernel=5, residual=True),
        Block(channels=8, kernel=1, separable=False),
    )
    plain = MatchboxNet(labels=("a", "b"), blocks=blocks, frontend="log_mel:n_mels=16")
    model = sk.build(plain).eval()
    audio = 0.1 * torch.randn(1, 8000)
    with torch.no_grad():
        expected, off = model(audio).scores, []
        for bits in (4, 8, 16):
            hardware = f"bits={bits},leakage=0.2"
            made = sk.build(
                MatchboxNet(
                    labels=("a", "b"),
                    blocks=blocks,
                    frontend="log_mel:n_mels=16",
                    channel=f"analog_linear:{hardware}",
                    mixer=f"analog_depthwise:{hardware}",
                )
            )
            made.load_state_dict(model.state_dict())
            off.append(float((made.eval()(audio).scores - expected).abs().max()))
    assert off[0] > 4 * off[1] > 16 * off[2]
