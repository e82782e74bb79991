"""Binary layers: whole sums times a factor, gradients past the signs, packed products."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from speechkit_compression.binary import BinaryDepthwise, BinaryPointwise, Sign, SignProduct, rows
from torch import Tensor, nn

import speechkit as sk
from speechkit.models import Net
from speechkit.nn import Chunk, FrameWise, StreamLayer
from speechkit.plans.plan import load_plan
from speechkit.plans.scorer import PlanScorer
from speechkit.plans.signs import packed_signs
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.tasks.plans import plan_of
from speechkit.testing.native import check_native

M = TypeVar("M", bound=nn.Module)


def drawn(layer: M, seed: int = 0) -> M:
    """The layer with biases, gains and weights that are none of the first values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return layer


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stepped(layer: StreamLayer, x: Tensor) -> Tensor:
    """The engine's output, all frames in one step."""
    native = NativeLayer(layer, x.shape[2], c_in=x.shape[1])
    assert not native.in_torch
    return native.step(Chunk.of(x), native.init_state(len(x), x.shape[1]))[0].x.clone()


def test_paper_054_the_gradient_of_sign_at_0_is_1_5() -> None:
    x = torch.zeros(1, 1, 1, requires_grad=True)
    Sign(1)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 1.5
    x = noise(1, 3, 50).requires_grad_()
    Sign(3)(x).sum().backward()
    s = torch.sigmoid(3 * x.detach())
    torch.testing.assert_close(x.grad, 2 * 3 * s * (1 - s))


def test_paper_054_signs_are_1_and_minus_1_and_that_of_0_is_1() -> None:
    sign = drawn(FrameWise(Sign(8, beta=0.7)))
    assert sign(Chunk.of(noise(2, 8, 100))).x.unique().tolist() == [-1, 1]
    assert Sign(1)(torch.tensor([[[0.0, -0.0, 1e-45, -1e-45]]])).tolist() == [[[1, 1, 1, -1]]]
    found, _ = rows(noise(16, 9), torch.ones(16), binary=True)
    assert found.unique().tolist() == [-1, 1]


def test_paper_054_beta_does_not_change_signs() -> None:
    sign = Sign(64, beta=1.125**-0.5)
    torch.nn.init.normal_(sign.bias)
    x = noise(4, 64, 2000)
    # some on the border itself
    x[0, :, 0] = -(sign.bias / sign.beta).detach()
    assert torch.equal(sign(x), sign.fuse()(x))


def test_paper_054_weights_are_standardised_with_a_scale_for_each_row() -> None:
    weight, gain = noise(6, 50).double(), 1 + noise(6).double()
    real, factor = rows(weight, gain, binary=False)
    assert torch.equal(factor, gain)
    assert real.mean(1).abs().max() < 1e-12
    torch.testing.assert_close(
        real.std(1, correction=0), torch.full((6,), 50**-0.5).double(), rtol=1e-4, atol=0
    )
    found, factor = rows(weight, gain, binary=True)
    assert torch.equal(found, real.sign())
    torch.testing.assert_close(factor, gain * real.abs().mean(1))


def test_paper_054_gradients_pass_the_signs_of_weights_where_they_are_within_1() -> None:
    weight, gain = (noise(5, 4).double()).requires_grad_(), (1 + noise(5)).double().requires_grad_()
    x = noise(4, 30, seed=1).double()
    found, factor = rows(weight, gain, binary=True)
    (found @ x * factor[:, None]).square().sum().backward()
    mine = weight.grad, gain.grad
    weight.grad = gain.grad = None
    # as the paper has it: the row itself is gain · s · sign, with the gradient of clamp
    centred = weight - weight.mean(1, keepdim=True)
    standard = centred / ((weight.std(1, correction=0, keepdim=True) + 1e-5) * 4**0.5)
    size = standard.abs().mean(1, keepdim=True).detach()
    clamped = standard.clamp(-1, 1)
    effective = gain[:, None] * ((size * standard.sign() - clamped).detach() + clamped)
    (effective @ x).square().sum().backward()
    torch.testing.assert_close(mine[0], weight.grad)
    torch.testing.assert_close(mine[1], gain.grad)


@pytest.mark.parametrize(("c_in", "c_out"), [(8, 12), (64, 64), (96, 40)])
def test_the_packed_product_is_the_layer_to_the_bit(c_in: int, c_out: int) -> None:
    layer = drawn(BinaryPointwise(c_in, c_out, alpha=0.25, beta=1.0625**-0.5))
    x = noise(3, c_in, 40, seed=1)
    trained = layer.train()(Chunk.of(x)).x
    packed = layer.eval().fuse()
    assert isinstance(packed, SignProduct)
    assert torch.equal(packed(Chunk.of(x)).x, trained)
    assert torch.equal(stepped(layer, x), trained)


def test_without_binary_weights_the_sign_remains() -> None:
    layer = drawn(BinaryPointwise(20, 24, weights=False)).eval()
    x = noise(2, 20, 30, seed=1)
    weight, factor = rows(layer.weight, layer.gain, binary=False)
    signs = torch.where(x + layer.sign.bias[:, None] >= 0, 1.0, -1.0)
    torch.testing.assert_close(layer(Chunk.of(x)).x, factor[:, None] * (weight @ signs))
    check_native(layer, x, torch.tensor([30, 17]))


@pytest.mark.parametrize("weights", [True, False])
def test_taps_over_time_are_binary_and_padding_is_0(weights: bool) -> None:
    layer = drawn(BinaryDepthwise(8, 5, dilation=2, weights=weights, alpha=0.25))
    u = noise(1, 8, 30, seed=1).sign()
    taps, factor = rows(layer.weight, 0.25 * layer.gain, weights)
    expected = F.conv1d(u, taps, padding=4, dilation=2, groups=8) * factor[:, None]
    torch.testing.assert_close(layer(Chunk.of(u)).x, expected)
    row = F.pad(u, (0, 9), value=torch.nan)
    padded = layer(Chunk.of(row, torch.tensor([30]))).x[:, :, :30]
    torch.testing.assert_close(padded, expected)
    check_native(layer, u)
    if weights:
        assert torch.equal(stepped(layer, F.pad(u, (0, 4)))[:, :, 4:], layer(Chunk.of(u)).x)


def test_packed_weights_of_a_64_wide_layer_take_a_twentieth() -> None:
    layer = BinaryPointwise(64, 64)
    packed = packed_signs(layer.weight.detach()).nbytes
    whole = layer.weight.nbytes
    assert whole / packed > 29
    # with the factors of the rows
    assert whole / (packed + layer.gain.nbytes) > 20


def test_a_plan_of_a_net_holds_the_signs_and_gives_its_scores(net: Net, tmp_path: Path) -> None:
    wide = [replace(row, channels=64) for row in net.blocks]
    frontend = "log_mel:n_mels=16,normalize=running"
    binary = replace(net, size="", blocks=tuple(wide), channel="binary", frontend=frontend)
    model, whole = sk.build(binary, 1).eval(), sk.build(replace(binary, channel="linear"), 1).eval()
    layers = [m for m in model.modules() if isinstance(m, BinaryPointwise)]
    saved = 0
    for layer in layers:
        drawn(layer)
        saved += layer.weight.nbytes - packed_signs(layer.weight.detach()).nbytes
    plan = plan_of(model)
    assert plan_of(whole).weights.nbytes - plan.weights.nbytes > 0.9 * saved
    plan.save(tmp_path / "plan")
    loaded = load_plan(tmp_path / "plan")
    assert loaded.weights.tobytes() == plan.weights.tobytes()
    sound = 0.1 * noise(4000).numpy()
    one, other = (np.concatenate([*PlanScorer(p).parts([sound])]) for p in (plan, loaded))
    assert len(one)
    np.testing.assert_array_equal(one, other)


def test_a_prepared_net_of_it_is_equal(net: Net) -> None:
    model = sk.build(replace(net, channel="binary"), 1).eval()
    drawn(model)
    ready = sk.prepare(model)
    assert not any(isinstance(m, BinaryPointwise) for m in ready.modules())
    sound = 0.1 * noise(1, 4000)
    with torch.inference_mode():
        torch.testing.assert_close(ready(sound).scores, model(sound).scores, rtol=1e-3, atol=1e-4)


def test_first_weights_stay_as_the_layer_draws_them() -> None:
    model = sk.build(sk.MatchboxNet(labels=("a", "b"), size="1x1x16", channel="binary"), 0)
    for layer in model.modules():
        if isinstance(layer, BinaryPointwise):
            assert 0 <= layer.weight.min() < 1e-4
            assert 9e-4 < layer.weight.max() <= 1e-3
