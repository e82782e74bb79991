"""Spectra against torch.stft, and their frames."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.errors import StreamError
from speechkit.frontend import PowerSpectrum, PreEmphasis
from speechkit.nn.stream import Chunk, Serial
from speechkit.testing import check_stream


def noise(rows: int, samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, 1, samples, dtype=torch.float64, generator=generator)


def test_symmetric_window_has_the_golden_sum() -> None:
    assert PowerSpectrum(512, 320, 160).window.value.sum().item() == pytest.approx(159.5, abs=1e-4)
    assert PowerSpectrum(512, 320, 160, periodic=True).window.value.sum().item() == pytest.approx(
        160
    )


def test_pre_emphasis_starts_with_the_first_valid_sample() -> None:
    x = torch.tensor([[[9.0, 1.0, 2.0, 4.0]]])
    valid = torch.tensor([[False, True, True, True]])
    assert PreEmphasis(0.5)(Chunk(x, valid)).x.tolist() == [[[0.0, 1.0, 1.5, 3.0]]]


@pytest.mark.parametrize(
    ("n_fft", "window", "hop"), [(512, 320, 160), (512, 401, 160), (64, 64, 7)]
)
def test_power_is_that_of_torch_stft_with_zero_edges(n_fft: int, window: int, hop: int) -> None:
    x = noise(2, 1603)
    y = PowerSpectrum(n_fft, window, hop, periodic=True).double()(Chunk.of(x))
    theirs = torch.stft(
        x[:, 0],
        n_fft,
        hop,
        window,
        torch.hann_window(window, dtype=torch.float64),
        pad_mode="constant",
        return_complex=True,
    )
    power = theirs.abs().square()[:, :, : 1603 // hop]
    torch.testing.assert_close(y.x, power, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, 1600])
def test_n_samples_have_n_over_hop_frames(samples: int) -> None:
    y = PowerSpectrum(512, 400, 160)(Chunk.of(torch.zeros(1, 1, samples)))
    assert y.x.shape == (1, 257, samples // 160)
    assert y.lengths.tolist() == [samples // 160]


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    hop=st.integers(1, 12),
    window=st.integers(2, 32),
    lengths=st.lists(st.integers(0, 200), min_size=2, max_size=2),
)
def test_streams_in_any_chunking(
    sizes: list[int], hop: int, window: int, lengths: list[int]
) -> None:
    layer = Serial(PreEmphasis(), PowerSpectrum(32, window, hop)).double()
    check_stream(layer, noise(2, 200), torch.tensor(lengths), [sizes])


def test_a_chunk_that_is_no_multiple_of_the_hop_is_refused() -> None:
    layer = PowerSpectrum(512, 320, 160)
    with pytest.raises(StreamError, match="feed 160 or 320"):
        layer.step(Chunk.of(torch.zeros(1, 1, 200)), layer.init_state(1, 1))
