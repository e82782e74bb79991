import math

import pytest
import torch

from speechkit.errors import StreamError
from speechkit.nn import (
    AveragePool,
    Chunk,
    Pointwise,
    PooledHead,
    RunningAverage,
    SlidingAverage,
    StreamLayer,
)
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.testing import assert_close, check_stream


def ragged() -> Chunk:
    x = torch.randn(2, 3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Chunk.of(x, torch.tensor([10, 4]))


def test_average_takes_valid_frames_only() -> None:
    c = ragged()
    expected = torch.stack([c.x[0].mean(1), c.x[1, :, :4].mean(1)])
    assert_close("y", expected, AveragePool()(c).x.squeeze(2), 1e-14)


def test_nemo_compat_takes_padding_too() -> None:
    c = ragged()
    assert_close("y", c.x.mean(2, keepdim=True), AveragePool(nemo_compat=True)(c).x, 1e-14)


def test_average_refuses_to_stream_and_says_what_does() -> None:
    with pytest.raises(StreamError, match="use pool 'running'"):
        AveragePool().step(ragged(), ())


def test_running_average_streams_and_ends_at_the_average() -> None:
    c = ragged()
    check_stream(RunningAverage(), c.x, c.lengths, chunks=(1, 3, 7))
    running, whole = RunningAverage()(c).x, AveragePool()(c).x.squeeze(2)
    assert_close("last", whole, torch.stack([running[0, :, 9], running[1, :, 3]]), 1e-14)


def test_a_running_average_stays_exact_after_hours() -> None:
    layer, frames, more = RunningAverage(), 10**7, 1000
    _, state = layer.step(Chunk.of(torch.full((1, 1, frames), 0.25)), layer.init_state(1, 1))
    for _ in range(more):
        y, state = layer.step(Chunk.of(torch.full((1, 1, 1), 0.8)), state)
    expected = (0.25 * frames + 0.8 * more) / (frames + more)
    assert y.x.item() == pytest.approx(expected, rel=2e-7)


def test_a_native_running_average_stays_exact_after_hours() -> None:
    block, blocks = 50_000, 200
    x = torch.rand(1, 2, block, generator=torch.Generator().manual_seed(0))
    layer = NativeLayer(RunningAverage(), block, c_in=2)
    state = layer.init_state(1, 2)
    for _ in range(blocks):
        y, state = layer.step(Chunk.of(x), state)
    assert_close("y", x.double().mean(2), y.x[:, :, -1].double(), 2e-7)


def test_sliding_average_is_that_of_the_last_frames_that_are_valid() -> None:
    c = ragged()
    check_stream(SlidingAverage(4), c.x, c.lengths, chunks=(1, 3, 7))
    slid = SlidingAverage(4)(c).x
    expected = torch.stack([c.x[0, :, max(0, t - 3) : t + 1].mean(1) for t in range(10)], dim=1)
    assert_close("whole row", expected, slid[0], 1e-14)
    assert_close("two left", c.x[1, :, 2:4].mean(1), slid[1, :, 5], 1e-14)


def test_a_clip_head_slides_with_the_same_weights() -> None:
    c = ragged()
    head = PooledHead(AveragePool(), Pointwise(3, 5, bias=True)).double()
    last = Chunk.of(c.x[:1, :, 6:])
    assert_close("clip", head(last).x[0, :, 0], head.sliding(4)(c).x[0, :, 9], 1e-13)


def test_a_clip_head_runs_with_the_same_weights() -> None:
    c = ragged()
    head = PooledHead(AveragePool(), Pointwise(3, 5, bias=True)).double()
    running = head.running()
    check_stream(running, c.x, c.lengths, chunks=(1, 4))
    assert_close("clip", head(c).x[0, :, 0], running(c).x[0, :, 9], 1e-13)


def test_a_pool_that_does_not_stream_makes_a_head_that_does_not() -> None:
    class Largest(StreamLayer):
        left = right = math.inf

        def forward(self, c: Chunk) -> Chunk:
            return Chunk(c.masked.amax(2, keepdim=True), c.valid[:, :1])

    head = PooledHead(Largest(), Pointwise(3, 5))
    for streamed in (head.running(), head.sliding(4)):
        with pytest.raises(StreamError, match="a clip head reads the whole utterance"):
            streamed.step(Chunk.of(torch.zeros(1, 3, 2)), ())
