"""Curves that correct the colour of a microphone: what they are, and that one is found."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from speechkit_mixers.curve_eq import Curves, curve_eq
from speechkit_mixers.mean import DecayingMean
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.export import export
from speechkit.nn import Chunk
from speechkit.testing.native import check_native

NETS = {
    "quartznet": sk.QuartzNet(size="5x5", frontend="curve_eq"),
    "matchboxnet": sk.MatchboxNet(labels=("a", "b"), size="3x1x64", frontend="curve_eq"),
    "marblenet": sk.MarbleNet(size="3x2x64", frontend="curve_eq:curves=eq+tone"),
}
BOTH = "eq", "tone"


def energies(bands: int = 12, frames: int = 30) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    return 4 * torch.randn(2, bands, frames, generator=chance, dtype=torch.float64) - 6


def curve(knots: Tensor, u: Tensor) -> Tensor:
    """The line through knots that are evenly spaced over 0…1."""
    at = u.clamp(0, 1) * (len(knots) - 1)
    low = at.floor().long().clamp(max=len(knots) - 2)
    return knots[low] + (at - low) * (knots[low + 1] - knots[low])


def test_paper_092_both_curves_are_lines_between_knots() -> None:
    layer = Curves(12, BOTH, knots=5, hidden=4, pool="none").double()
    nn.init.normal_(layer.p)
    x, k = energies(), layer.p.exp()
    eq = curve(k[:5], torch.arange(12, dtype=torch.float64) / 11)
    tone = curve(k[5:], (x + 16) / 20)
    y = x + eq.log()[None, :, None] + tone.log()
    torch.testing.assert_close(layer(Chunk.of(x)).x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pool", ["causal", "utterance", "none"])
def test_paper_092_nothing_learned_is_the_identity(pool: str) -> None:
    layer = Curves(12, BOTH, knots=16, hidden=4, pool=pool)
    x = energies().float()
    assert torch.equal(layer(Chunk.of(x)).x, x)


@pytest.mark.parametrize("pool", ["causal", "utterance", "none"])
def test_paper_092_the_gradient_reaches_every_knot(pool: str) -> None:
    layer = Curves(32, BOTH, knots=7, hidden=4, pool=pool).double()
    x = torch.linspace(-16, 4, 32 * 9, dtype=torch.float64).reshape(1, 9, 32).transpose(1, 2)
    layer(Chunk.of(x)).x.square().sum().backward()
    weight = layer.p.grad if pool == "none" else layer.p.predict.bias.grad
    assert weight.shape == (14,)
    assert (weight != 0).all()


def test_paper_092_two_knots_are_a_gain_that_is_affine_in_the_band() -> None:
    layer = Curves(9, ("eq",), knots=2, hidden=4, pool="none").double()
    nn.init.normal_(layer.p)
    gain = (layer(Chunk.of(energies(9))).x - energies(9)).exp()[0, :, 0]
    low, high = layer.p.exp().tolist()
    torch.testing.assert_close(gain, torch.linspace(low, high, 9, dtype=torch.float64))


def test_paper_092_a_planted_equaliser_is_found() -> None:
    """+6, −4 and +2 dB in three smooth bands of 64, by 17 knots, to 0.3 dB."""
    bands = torch.arange(64, dtype=torch.float64)
    db = sum(
        gain * torch.exp(-0.5 * ((bands - centre) / 8) ** 2)
        for gain, centre in ((6.0, 12), (-4.0, 32), (2.0, 52))
    )
    planted = db * math.log(10) / 10
    x = energies(64)
    layer = Curves(64, ("eq",), knots=17, hidden=4, pool="none").double()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        F.mse_loss(layer(Chunk.of(x)).x, x + planted[:, None]).backward()
        optimizer.step()
    found = (layer(Chunk.of(x)).x - x)[0, :, 0].detach() * 10 / math.log(10)
    assert (found - db).abs().mean() < 0.12
    assert (found - db).abs().max() < 0.3


def test_the_knots_are_predicted_from_the_mean() -> None:
    layer = Curves(12, ("eq",), knots=5, hidden=4, pool="utterance").double()
    for weight in layer.parameters():
        nn.init.normal_(weight)
    x = energies()
    first, second = layer.p.reduce, layer.p.predict
    hidden = (first.weight @ (x.mean(2) / 10).T + first.bias[:, None]).relu()
    p = second.weight @ hidden + second.bias[:, None]
    assert (hidden == 0).any()
    torch.testing.assert_close(layer.p(Chunk.of(x)).x[:, :, 0], p.T)


def test_the_mean_is_that_of_the_valid_frames() -> None:
    layer = Curves(12, BOTH, knots=5, hidden=4, pool="utterance").double()
    nn.init.normal_(layer.p.predict.weight)
    x = energies()
    alone = layer(Chunk.of(x[1:, :, :9])).x
    x[1, :, 9:] = torch.nan
    both = layer(Chunk.of(x, torch.tensor([30, 9]))).x
    torch.testing.assert_close(both[1:, :, :9], alone)
    running = Curves(12, BOTH, knots=5, hidden=4, pool="causal", frames=1e9).double()
    running.load_state_dict(layer.state_dict())
    torch.testing.assert_close(running(Chunk.of(x[1:, :, :9])).x[:, :, 8], alone[:, :, 8])


def test_the_mean_so_far_decays() -> None:
    layer, x = DecayingMean(frames=5).double(), energies()
    a, s, n = math.exp(-1 / 5), torch.zeros(12, dtype=torch.float64), 0.0
    for t in range(30):
        s, n = a * s + x[0, :, t], a * n + 1
        torch.testing.assert_close(layer(Chunk.of(x)).x[0, :, t], s / n)
    steady = torch.full((1, 1, 100_000), -13.8)
    assert layer.float()(Chunk.of(steady)).x[0, 0, -1].item() == pytest.approx(-13.8, rel=1e-6)


@pytest.mark.parametrize("pool", ["causal", "none"])
def test_native(pool: str) -> None:
    layer = Curves(12, ("eq",), knots=5, hidden=4, pool=pool)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.3)
    check_native(layer, energies().float(), torch.tensor([30, 17]))


@pytest.mark.parametrize("net", NETS)
def test_a_built_net_begins_as_without_curves(net: str) -> None:
    model = sk.build(NETS[net], seed=2).eval()
    inner = sk.build(NETS[net], seed=2).frontend
    (layer,) = (m for m in model.modules() if isinstance(m, Curves))
    audio = 0.1 * torch.randn(2, 3200, generator=torch.Generator().manual_seed(0))
    c = Chunk.of(audio[:, None], torch.tensor([3200, 2000]))
    features = inner.frontend(c)
    with torch.inference_mode():
        assert torch.equal(layer(features).x, features.x)
    scores = model.train()(audio, torch.tensor([3200, 2000])).scores
    (scores * torch.randn(scores.shape)).sum().backward()
    assert layer.p.predict.bias.grad.any()


def test_a_session_is_as_the_whole_utterance() -> None:
    model = sk.build(NETS["marblenet"], seed=2).eval()
    (layer,) = (m for m in model.modules() if isinstance(m, Curves))
    nn.init.normal_(layer.p.predict.weight, std=0.1)
    audio = 0.1 * torch.randn(1, 6400, generator=torch.Generator().manual_seed(0))
    features = model.features(audio).x.detach()
    state, parts = model.frontend.init_state(1, 1), []
    for part in audio[:, None].split(320, 2):
        y, state = model.frontend.step(Chunk.of(part), state)
        parts.append(y.x.detach())
    streamed, delay = torch.cat(parts, 2), model.frontend.delay
    offline = features[:, :, : features.shape[2] - delay]
    torch.testing.assert_close(streamed[:, :, delay:], offline, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_net_exports_with_it(tmp_path: Path) -> None:
    net = sk.MatchboxNet(labels=("a", "b"), size="1x1x8", frontend="curve_eq:normalize=none")
    model = sk.build(net, seed=2).eval()
    (layer,) = (m for m in model.modules() if isinstance(m, Curves))
    nn.init.normal_(layer.p.predict.weight, std=0.1)
    assert export(model, tmp_path / "net.onnx", "onnx", []).difference < 1e-4


def test_wrong_parameters_are_named() -> None:
    for wrong, message in (
        ({"pool": "ema"}, "pool='ema', curves='eq'; give pool causal or utterance or none"),
        ({"curves": "eq+eq"}, "and curves eq, tone or eq.tone"),
        ({"knots": 1}, "give at least 2 knots"),
        ({"frames": 0}, "and more than 0 frames"),
    ):
        with pytest.raises(ComponentError, match=message):
            curve_eq(16000, **wrong)
