"""Norms of the stream so far: chunks as whole, invalid frames as if they were not there."""

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechkit_norms.causal import CumulativeLayerNorm, RunningNorm
from speechkit_norms.utterance import LayerNormCT
from torch import Tensor

from speechkit.nn import Chunk
from speechkit.testing import assert_close, check_stream

Ragged = Callable[..., Chunk]


def test_paper_110_cumulative_statistics_are_those_of_the_frames_so_far(ragged: Ragged) -> None:
    norm, c = CumulativeLayerNorm(8).double(), ragged()
    y = norm(c)
    for row, length in enumerate(c.lengths.tolist()):
        for end in range(1, length + 1):
            before = c.x[row, :, :end]
            deviation = (before.var(unbiased=False) + norm.eps).sqrt()
            expected = (before[:, -1] - before.mean()) / deviation
            assert_close(f"row {row}, frame {end}", expected, y.x[row, :, end - 1], 1e-11)


def test_paper_110_at_the_last_frame_it_is_layer_ct(ragged: Ragged) -> None:
    c = ragged()
    whole, so_far = LayerNormCT(8).double()(c), CumulativeLayerNorm(8).double()(c)
    last = c.lengths - 1
    rows = torch.arange(3)
    assert_close("y", whole.x[rows, :, last], so_far.x[rows, :, last], 1e-12)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 60))
def test_paper_110_cumulative_stream_is_offline(chunks: list[int], length: int) -> None:
    chance = torch.Generator().manual_seed(length)
    x = torch.randn(2, 8, 60, generator=chance, dtype=torch.float64) + 3
    check_stream(CumulativeLayerNorm(8).double(), x, torch.tensor([60, length]), [chunks])


def test_cumulative_sums_stay_exact_in_a_long_loud_stream() -> None:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 20000, generator=chance) + 1000
    y = CumulativeLayerNorm(8)(Chunk.of(x)).x[:, :, -100:]
    exact = CumulativeLayerNorm(8).double()(Chunk.of(x.double())).x[:, :, -100:]
    assert_close("y", exact.float(), y, 1e-3)


def test_running_is_the_plain_loop(ragged: Ragged) -> None:
    norm, c = RunningNorm(8, time_constant_frames=7, prior_frames=2).double(), ragged()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    y = norm(c)
    for row, length in enumerate(c.lengths.tolist()):
        expected = _loop(c.x[row, :, :length], 7, 2)
        expected = expected * norm.weight[:, None] + norm.bias[:, None]
        assert_close(f"row {row}", expected, y.x[row, :, :length], 1e-10)


def test_running_streams(ragged: Ragged) -> None:
    c = ragged()
    check_stream(RunningNorm(8).double(), c.x, c.lengths)


def test_frames_in_between_that_are_not_valid_change_nothing(ragged: Ragged) -> None:
    x = ragged().x[:1]
    gap = Chunk(torch.full_like(x[:, :, :4], torch.nan), torch.zeros(1, 4, dtype=torch.bool))
    for norm in (CumulativeLayerNorm(8).double(), RunningNorm(8).double()):
        whole = norm(Chunk.of(x)).x
        _, state = norm.step(Chunk.of(x[:, :, :9]), norm.init_state(1, 8, torch.float64))
        _, state = norm.step(gap, state)
        rest, _ = norm.step(Chunk.of(x[:, :, 9:]), state)
        assert_close(type(norm).__name__, whole[:, :, 9:], rest.x, 1e-12)


def test_state_and_sums_of_half_precision_are_float32() -> None:
    x = 20 + torch.randn(1, 8, 200, generator=torch.Generator().manual_seed(0))
    for norm in (CumulativeLayerNorm(8), RunningNorm(8)):
        assert norm.init_state(1, 8, torch.bfloat16)[0].dtype == torch.float32
        y = norm(Chunk.of(x.bfloat16())).x
        assert y.dtype == torch.bfloat16
        expected = norm(Chunk.of(x.bfloat16().float())).x
        assert_close(type(norm).__name__, expected, y.float(), 2**-8)


def _loop(x: Tensor, time_constant_frames: float, prior_frames: float) -> Tensor:
    decay = torch.exp(torch.tensor(-1 / time_constant_frames, dtype=torch.float64))
    n = torch.tensor(prior_frames, dtype=torch.float64)
    mean = torch.zeros(len(x), dtype=torch.float64)
    total, squares = n * mean, n * torch.ones_like(mean)
    outputs = []
    for frame in x.unbind(1):
        n, total, surprise = decay * n + 1, decay * total + frame, frame - mean
        squares = decay * squares + (1 - 1 / n) * surprise.square()
        mean = total / n
        outputs.append((frame - mean) / (squares / n + 1e-5).sqrt())
    return torch.stack(outputs, dim=1)
