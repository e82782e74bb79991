"""Normalised features against plain loops."""

import math
import re
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.component import Component, Spec
from speechkit.errors import AudioError, ComponentError
from speechkit.frontend import (
    PCEN,
    Fixed,
    LogMel,
    PCENAndLevel,
    PerFeature,
    Running,
    fit_statistics,
)
from speechkit.hookspecs import hookimpl
from speechkit.nn.stream import Chunk, Serial, StreamLayer
from speechkit.plugins import Registry, registry, using
from speechkit.testing import check_stream


def features(rows: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 5, frames, dtype=torch.float64, generator=generator)
    return 4 * x - 13


def test_per_feature_has_zero_mean_and_unit_unbiased_std() -> None:
    y = PerFeature(5)(Chunk.of(features(2, 50), torch.tensor([50, 20])))
    for row, n in enumerate([50, 20]):
        real = y.x[row, :, :n]
        torch.testing.assert_close(real.mean(1), torch.zeros(5).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close(real.std(1), torch.ones(5).double(), rtol=0, atol=1e-5)
    assert not y.x[1, :, 20:].any()


@pytest.mark.parametrize("frames", [0, 1])
def test_per_feature_of_hardly_any_frames_is_zero(frames: int) -> None:
    x = features(1, 3).masked_fill(torch.arange(3) >= frames, torch.nan)
    y = PerFeature(5)(Chunk.of(x, torch.tensor([frames])))
    assert not y.x.any()


def test_fixed_starts_as_the_identity() -> None:
    c = Chunk.of(features(1, 4).float())
    assert torch.equal(Fixed(5)(c).x, c.x)


def test_fixed_fits_the_valid_frames_of_all_chunks() -> None:
    x = features(3, 40)
    chunks = [Chunk.of(x[:2], torch.tensor([40, 7])), Chunk.of(x[2:], torch.tensor([0]))]
    chunks.append(Chunk.of(x[2:], torch.tensor([13])))
    layer = Fixed(5).double()
    layer.fit(Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid) for c in chunks)
    real = torch.cat([x[0], x[1, :, :7], x[2, :, :13]], dim=1)
    torch.testing.assert_close(layer.mean, real.mean(1))
    torch.testing.assert_close(layer.std, real.std(1) + 1e-5)
    again = Fixed(5).double()
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(chunks[0]).masked, layer(chunks[0]).masked)


def test_fitting_nothing_is_refused() -> None:
    with pytest.raises(AudioError, match="0 valid frames; give at least 2"):
        Fixed(5).fit([Chunk.of(features(1, 4), torch.tensor([0]))])


def test_running_follows_its_formula() -> None:
    x = features(1, 200)
    layer = Running(5, time_constant_frames=30, prior_frames=4).double()
    layer.mean.fill_(-10)
    layer.std.fill_(2)
    y = layer(Chunk.of(x)).x
    a = math.exp(-1 / 30)
    n, s, q = 4.0, torch.full((5,), -40.0).double(), torch.full((5,), 16.0).double()
    for t in range(200):
        surprise = x[0, :, t] - s / n
        n, s = a * n + 1, a * s + x[0, :, t]
        q = a * q + (1 - 1 / n) * surprise**2
        expected = (x[0, :, t] - s / n) / (q / n + 1e-5).sqrt()
        torch.testing.assert_close(y[0, :, t], expected, rtol=1e-11, atol=1e-11)


def test_running_is_the_weighted_mean_and_variance_of_the_past() -> None:
    x = features(1, 100)
    y = Running(5, time_constant_frames=20, prior_frames=1e-9).double()(Chunk.of(x)).x
    weights = torch.exp(-torch.arange(99, -1, -1).double() / 20)
    weights /= weights.sum()
    mean = (weights * x[0]).sum(1)
    variance = (weights * (x[0] - mean[:, None]) ** 2).sum(1)
    expected = (x[0, :, -1] - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(y[0, :, -1], expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    lengths=st.lists(st.integers(0, 150), min_size=2, max_size=2),
)
def test_running_streams_in_any_chunking(sizes: list[int], lengths: list[int]) -> None:
    layer = Running(5, time_constant_frames=40).double()
    check_stream(layer, features(2, 150), torch.tensor(lengths), [sizes])


def test_running_skips_invalid_frames() -> None:
    layer, x = Running(5).double(), features(1, 10)
    gap = torch.full((1, 5, 70), torch.nan, dtype=torch.float64)
    valid = torch.tensor([[True] * 4 + [False] * 70 + [True] * 6])
    y = layer(Chunk(torch.cat([x[:, :, :4], gap, x[:, :, 4:]], dim=2), valid))
    expected = layer(Chunk.of(x)).x
    torch.testing.assert_close(y.x[:, :, valid[0]], expected, rtol=1e-12, atol=1e-12)


def test_running_survives_digital_silence_and_its_gradient_too() -> None:
    x = torch.full((1, 5, 3000), -16.635532, requires_grad=True)
    y = Running(5, time_constant_frames=10)(Chunk.of(x)).x
    y.sum().backward()
    assert y[:, :, 500:].abs().max() < 0.01
    assert torch.isfinite(x.grad).all()


def test_running_needs_a_past_to_start_from() -> None:
    with pytest.raises(ComponentError, match="prior_frames 0"):
        Running(5, prior_frames=0)


def test_pcen_follows_its_formula() -> None:
    x = features(1, 200)
    y = PCEN(5, time_constant_frames=30, gain=0.9, bias=1.5, power=0.25, epsilon=1e-9).double()(
        Chunk.of(x)
    )
    a = math.exp(-1 / 30)
    n, s = 0.0, torch.zeros(5).double()
    for t in range(200):
        energy = x[0, :, t].exp()
        n, s = a * n + 1, a * s + energy
        ratio = energy / (1e-9 + s / n) ** 0.9
        expected = (ratio + 1.5) ** 0.25 - 1.5**0.25
        torch.testing.assert_close(y.x[0, :, t], expected, rtol=1e-11, atol=1e-11)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    lengths=st.lists(st.integers(0, 150), min_size=2, max_size=2),
)
def test_pcen_streams_in_any_chunking(sizes: list[int], lengths: list[int]) -> None:
    layer = PCEN(5, time_constant_frames=40).double()
    check_stream(layer, features(2, 150), torch.tensor(lengths), [sizes])


def test_pcen_skips_invalid_frames() -> None:
    layer, x = PCEN(5).double(), features(1, 10)
    gap = torch.full((1, 5, 70), torch.nan, dtype=torch.float64)
    valid = torch.tensor([[False] * 3 + [True] * 4 + [False] * 70 + [True] * 6])
    y = layer(Chunk(torch.cat([gap[:, :, :3], x[:, :, :4], gap, x[:, :, 4:]], dim=2), valid))
    expected = layer(Chunk.of(x)).x
    torch.testing.assert_close(y.x[:, :, valid[0]], expected, rtol=1e-12, atol=1e-12)


def test_pcen_with_gain_1_does_not_know_the_level() -> None:
    layer, x = PCEN(5, gain=1.0, epsilon=1e-30).double(), features(1, 90)
    louder = layer(Chunk.of(x + 4)).x
    torch.testing.assert_close(louder, layer(Chunk.of(x)).x, rtol=1e-12, atol=1e-12)


def test_pcen_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ComponentError, match="power 0"):
        PCEN(5, power=0)


def test_pcen_and_level_is_pcen_beside_the_scaled_energies() -> None:
    x = features(2, 90)
    layer = PCENAndLevel(5, bias=0.1, offset=-3.0, scale=2.0).double()
    y = layer(Chunk.of(x)).x
    torch.testing.assert_close(y[:, :5], PCEN(5, bias=0.1).double()(Chunk.of(x)).x)
    torch.testing.assert_close(y[:, 5:], (x + 3) / 2)
    assert layer.channels_out(5) == 10
    check_stream(layer, x, torch.tensor([90, 31]), [[7, 1, 40, 42]])
    with pytest.raises(ComponentError, match="scale 0"):
        PCENAndLevel(5, scale=0)


class Peak(Fixed):
    """x over the largest value of the training data: one that a plugin may offer."""

    def fit(self, chunks: Iterable[Chunk]) -> None:
        self.std.fill_(max(float(c.x.max()) for c in chunks))


class Tilted(Serial):
    """Another front end and something behind it."""

    def __init__(self, sample_rate: int, frontend: Spec | str) -> None:
        super().__init__(registry().build("frontend", frontend, sample_rate), StreamLayer())


def test_a_plugin_brings_a_normalizer_and_a_front_end_around_another() -> None:
    part = partial(Component, summary="ours")
    ours = Registry({"SPEECHKIT_PLUGINS": ""})
    ours.add(
        SimpleNamespace(
            speechkit_normalizers=hookimpl(lambda: [part(name="peak", factory=Peak)]),
            speechkit_frontends=hookimpl(
                lambda: [part(name="tilted", factory=Tilted, parts={"frontend": "frontend"})]
            ),
        ),
        "acme",
    )
    spec = Spec.parse("tilted:frontend={log_mel:n_mels=8,normalize=acme/peak}")
    audio = [torch.randn(1600, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    with using(ours):
        plain = ours.build("frontend", "log_mel:n_mels=8,normalize=none", 16000)
        layer = ours.build("frontend", spec, 16000)
        assert ours.used_by([("frontend", spec)]).keys() == {"acme"}
    fit_statistics(layer, audio)
    largest = max(float(plain(Chunk.of(x[None, None])).x.max()) for x in audio)
    c = Chunk.of(audio[0][None, None])
    assert torch.equal(layer(c).x, plain(c).x / torch.tensor(largest))


def test_an_unknown_normalizer_suggests_the_closest() -> None:
    message = "no normalizer named 'runing'. Did you mean 'running'"
    with pytest.raises(ComponentError, match=re.escape(message)):
        LogMel(normalize="runing")
