"""The resampler against ideal tones, against soxr, and streamed against whole."""

import math

import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechkit.errors import AudioError
from speechkit.frontend import LogMel, Resample
from speechkit.nn.stream import Chunk, Serial
from speechkit.testing import check_stream

RATES = [8000, 11025, 22050, 44100, 48000, 96000]
INNER = slice(1000, -1000)


def tone(hz: float, rate: int, samples: int) -> Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(samples, dtype=torch.float64) / rate + 0.3)


def resampled(x: Tensor, rate_in: int, rate_out: int = 16000) -> Tensor:
    return Resample(rate_in, rate_out).double()(Chunk.of(x[None, None])).x[0, 0]


def snr_db(signal: Tensor, error: Tensor) -> float:
    return 10 * math.log10(signal.square().mean() / error.square().mean())


@pytest.mark.parametrize("rate_in", RATES)
def test_pass_band_tones_come_out_as_themselves(rate_in: int) -> None:
    nyquist = min(rate_in, 16000) / 2
    for part in (0.01, 0.1, 0.5, 0.8, 0.9):
        y = resampled(tone(part * nyquist, rate_in, rate_in // 2), rate_in)
        ideal = tone(part * nyquist, 16000, len(y))
        assert snr_db(ideal[INNER], (y - ideal)[INNER]) > 90


@pytest.mark.parametrize("rate_in", [rate for rate in RATES if rate > 16000])
def test_tones_above_the_new_nyquist_are_gone(rate_in: int) -> None:
    for part in (0, 0.05, 0.3, 0.99):
        hz = 8000 + part * (rate_in / 2 - 8000)
        x = tone(hz, rate_in, rate_in // 2)
        assert snr_db(x, resampled(x, rate_in)[INNER]) > 90


@pytest.mark.parametrize("rate_in", RATES)
def test_a_sweep_comes_out_as_soxr_has_it(rate_in: int) -> None:
    t = torch.arange(rate_in, dtype=torch.float64) / rate_in
    top = 0.9 * min(rate_in, 16000) / 2
    x = torch.sin(math.pi * top * t**2)
    theirs = torch.from_numpy(soxr.resample(x.numpy(), rate_in, 16000, quality="VHQ"))
    ours = resampled(x, rate_in)[: len(theirs)]
    # soxr itself is 63 dB from an ideal tone at the top of ratios such as 441:160
    assert snr_db(theirs[INNER], (ours - theirs)[INNER]) > 70


@settings(max_examples=15, deadline=None)
@given(
    rates=st.sampled_from([*((rate, 16000) for rate in RATES), (16000, 44100), (5, 3), (3, 5)]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    lengths=st.lists(st.integers(0, 3000), min_size=2, max_size=2),
)
def test_streams_in_any_chunking(
    rates: tuple[int, int], sizes: list[int], lengths: list[int]
) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 1, 3000, dtype=torch.float64, generator=generator)
    check_stream(Resample(*rates).double(), x, torch.tensor(lengths), [sizes])


@pytest.mark.parametrize("rate_in", RATES)
def test_a_front_end_behind_it_streams(rate_in: int) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(2, 1, rate_in // 4, dtype=torch.float64, generator=generator)
    layer = Serial(Resample(rate_in, 16000), LogMel(normalize="running")).double()
    check_stream(layer, x, torch.tensor([rate_in // 4, rate_in // 9]), (1, 3))


@pytest.mark.parametrize("n", [0, 1, 2, 440, 441, 442, 1000])
def test_output_samples_lie_within_the_input(n: int) -> None:
    y = Resample(44100, 16000)(Chunk.of(torch.zeros(2, 1, 1000), torch.tensor([n, 1000])))
    assert y.x.shape == (2, 1, math.ceil(1000 * 160 / 441))
    assert y.lengths.tolist() == [math.ceil(n * 160 / 441), math.ceil(1000 * 160 / 441)]


def test_delay_is_whole_blocks_and_about_10_ms() -> None:
    assert {rate: Resample(rate, 16000).delay for rate in RATES} == {
        8000: 128,
        11025: 640,
        22050: 320,
        44100: 160,
        48000: 64,
        96000: 64,
    }


@pytest.mark.parametrize("rates", [(16000, 16000), (0, 16000), (16000, -1)])
def test_senseless_rates_are_refused(rates: tuple[int, int]) -> None:
    with pytest.raises(AudioError, match="two different positive rates"):
        Resample(*rates)
