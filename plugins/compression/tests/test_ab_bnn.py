"""Blocks of binary units: what they are made of, that they stream, and two steps of training."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from speechkit_compression.binary import BinaryDepthwise, BinaryPointwise, Sign
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import Chunk, Serial, StreamLayer, fuse
from speechkit.nn.lowering import Lowering
from speechkit.plans.program import CODES
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.testing.native import check_native_net

NETS: tuple[Net, ...] = (
    sk.QuartzNet(labels=tuple(" ab"), size="5x5"),
    sk.MatchboxNet(labels=("a", "b"), size="3x1x64"),
    sk.MarbleNet(frame_level=True, size="3x2x64"),
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block(block: str = "ab_bnn", channels: int = 16) -> StreamLayer:
    """The middle block of a small net, 16 channels at its input, with drawn weights."""
    rows = (
        sk.Block(channels=16, kernel=3),
        sk.Block(channels=channels, kernel=5, residual=True, repeat=2),
    )
    config = sk.MatchboxNet(labels=("a", "b"), blocks=rows, block=block, activation="qprelu")
    model = sk.build(config, 0)
    generator = torch.Generator().manual_seed(1)
    assert isinstance(model.encoder, Serial)
    (found,) = model.encoder
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return found


def by_hand(weights: dict[str, Tensor], x: Tensor, alpha: float) -> Tensor:
    """Two sub-blocks of 16 channels in plain torch, in float64."""

    def sign(x: Tensor, bias: Tensor, variance: float) -> Tensor:
        beta = 1 / math.sqrt(variance)
        return torch.where(beta * x + bias[:, None] >= 0, 1.0, -1.0).double()

    def effective(weight: Tensor, gain: Tensor) -> Tensor:
        flat = weight.flatten(1)
        std, mean = torch.std_mean(flat, dim=1, correction=0, keepdim=True)
        standard = (flat - mean) / (std + 1e-5) / math.sqrt(flat.shape[1])
        size = standard.abs().mean(1, keepdim=True)
        return (gain[:, None] * size * standard.sign()).view_as(weight)

    def end(x: Tensor, unit: str) -> Tensor:
        slope = 2 ** weights[f"{unit}.after.activation.module.log2"].round()
        x = x + weights[f"{unit}.before.module.bias"][:, None]
        x = torch.where(x >= 0, x, slope[:, None] * x)
        return x + weights[f"{unit}.last.module.bias"][:, None]

    for unit in range(4):
        body, variance = f"{unit}.sum.body", 1 + unit * alpha**2
        if unit % 2 == 0:
            u = sign(x, weights[f"{body}.sign.module.bias"], variance)
            taps = effective(weights[f"{body}.conv.weight"], weights[f"{body}.conv.gain"])
            v = torch.nn.functional.conv1d(u, taps, padding=2, groups=16)
        else:
            u = sign(x, weights[f"{body}.sign.bias"], variance)
            v = effective(weights[f"{body}.weight"], weights[f"{body}.gain"]) @ u
        x = end(x + alpha * v, str(unit))
    return x


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_paper_054_a_block_is_its_formula(alpha: float) -> None:
    layer = block(f"ab_bnn:alpha={alpha}").double().eval()
    x = noise(2, 16, 30).double()
    expected = by_hand(layer.state_dict(), x, alpha)
    torch.testing.assert_close(layer(Chunk.of(x)).x, expected)


@pytest.mark.parametrize(
    ("channels", "expected"), [(16, (1, 1.0625, 1.125, 1.1875)), (24, (1, 1.0625, 1, 1.0625))]
)
def test_paper_054_the_expected_variance_grows_with_each_unit(
    channels: int, expected: tuple[float, ...]
) -> None:
    signs = [m for m in block(channels=channels).modules() if isinstance(m, Sign)]
    if channels == 24:
        # that of the projecting shortcut normalises nothing
        signs.remove(next(s for s in signs[1:] if s.beta == 1))
    found = [sign.beta**-2 for sign in signs]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("channels", [16, 24])
def test_paper_054_the_training_graph_is_the_one_without_beta_to_the_bit(channels: int) -> None:
    layer = block(channels=channels)
    x = Chunk.of(noise(3, 16, 50), torch.tensor([50, 31, 1]))
    trained = layer.train()(x)
    removed = fuse(layer.eval())
    assert not any(isinstance(m, Sign) for m in removed.modules())
    assert torch.equal(removed(x).masked, trained.masked)


@pytest.mark.parametrize("channels", [16, 24])
def test_the_engine_computes_a_block_to_the_bit(channels: int) -> None:
    layer = block(channels=channels).eval()
    x = noise(2, 16, 40)
    native = NativeLayer(layer, 40 + layer.delay, c_in=16)
    assert not native.in_torch
    whole = torch.nn.functional.pad(x, (0, layer.delay))
    given = Chunk.of(whole, torch.tensor([40, 40]))
    got, _ = native.step(given, native.init_state(2, 16))
    assert torch.equal(got.x[:, :, layer.delay :], layer(Chunk.of(x)).x)


def test_paper_054_only_additions_shifts_and_signs_are_in_a_block_but_for_the_factors() -> None:
    layer = block()
    program = Lowering()
    program.add(fuse(layer.eval()), program.input(1, 16))
    codes = {CODES[row["code"]] for row in program.instructions}
    assert codes == {"expression", "depthwise", "affine", "add", "activate", "binary", "delay"}
    for row in program.instructions:
        if CODES[row["code"]] == "depthwise":
            taps = program.weights.array[row["filters"] :][: 16 * row["taps"]]
            assert {*taps.tolist()} == {-1.0, 1.0}


def test_paper_054_step_2_begins_with_the_weights_of_step_1() -> None:
    one, two = (
        sk.build(replace(NETS[1], block=f"ab_bnn:weights={w}", activation="qprelu"), seed)
        for w, seed in (("false", 0), ("true", 1))
    )
    assert not any(m.binary for m in one.modules() if isinstance(m, BinaryPointwise))
    two.load_state_dict(one.state_dict())
    signs = [m for m in two.modules() if isinstance(m, BinaryPointwise | BinaryDepthwise)]
    assert all(m.binary for m in signs)
    assert len(signs) == 3 * 2 + 1


@pytest.mark.parametrize(
    "net",
    [pytest.param(NETS[0], marks=pytest.mark.slow), *NETS[1:]],
    ids=["quartznet", "matchboxnet", "marblenet"],
)
def test_it_streams_and_is_saved_in_the_nets_of_the_papers(net: Net, tmp_path: Path) -> None:
    model = sk.build(replace(net, block="ab_bnn", activation="qprelu"), 0).eval()
    sk.save(model, tmp_path / "model")
    again = sk.load(tmp_path / "model").eval()
    layer = Serial(model.stem, model.encoder).double()
    features = model.frontend.channels_out(1)
    x = Chunk.of(noise(1, features, 40).double())
    with torch.inference_mode():
        expected = layer(x)
        other = Serial(again.stem, again.encoder).double()(x)
    assert torch.equal(other.x, expected.x)
    state, parts, size = layer.init_state(1, features, torch.float64), [], 8 * layer.stride
    wait = math.ceil(layer.delay * layer.stride / layer.rate / size) * size
    whole = torch.nn.functional.pad(x.x, (0, wait + -x.x.shape[2] % size))
    given = Chunk.of(whole, torch.tensor([40]))
    with torch.inference_mode():
        for at in range(0, whole.shape[2], size):
            part = Chunk(given.x[:, :, at : at + size], given.valid[:, at : at + size])
            made, state = layer.step(part, state)
            parts.append(made.x)
    got = torch.cat(parts, 2)[:, :, layer.delay :][:, :, : expected.x.shape[2]]
    torch.testing.assert_close(got, expected.x)


def test_a_net_of_it_runs_natively() -> None:
    rows = (
        sk.Block(channels=20, kernel=5, stride=2),
        sk.Block(channels=24, kernel=4, dilation=2, residual=True),
    )
    net = sk.QuartzNet(labels=("a", "b"), blocks=rows, block="ab_bnn", activation="qprelu")
    check_native_net(net)


def test_a_wrong_alpha_is_refused() -> None:
    with pytest.raises(ComponentError, match="block ab_bnn: alpha=0; give a number above 0"):
        block("ab_bnn:alpha=0")
