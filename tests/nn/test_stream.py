"""The contract itself: whole and chunked are equal, delays meet, and a liar is found out."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from speechkit.errors import StreamError
from speechkit.nn import (
    Chunk,
    Delay,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    Recurrent,
    Residual,
    Serial,
    State,
    StreamLayer,
    Windowed,
)
from speechkit.testing import check_stream, stream


class Add(nn.Module):
    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return shortcut + body


class Upsample(StreamLayer):
    """Two output frames for each input frame, to try composition with a rate."""

    rate = 2

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(
            c.x.transpose(1, 2).repeat_interleave(2, 1).transpose(1, 2),
            c.valid.repeat_interleave(2, 1),
        )


class Count(Windowed):
    """How many of the frames of a window are valid."""

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        assert valid.shape == (len(x), x.shape[2])
        assert not x.masked_select(~valid[:, None]).any()
        span = self.left + 1 + self.right
        if not frames:
            return x[:, :, :0]
        count = valid.to(x.dtype).unfold(1, span, self.stride)[:, :frames].sum(2)
        return count[:, :, None].expand(-1, -1, x.shape[1]).transpose(1, 2)


class EverySecondSum(Recurrent):
    """The sum of the valid frames so far, at every second frame."""

    stride = 2

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return (torch.zeros(batch, c_in, dtype=dtype, device=device),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        total = torch.cat([state[0][:, None], c.masked.transpose(1, 2)], dim=1).cumsum(1)
        return Chunk(total[:, 1::2].transpose(1, 2), c.valid[:, ::2]), (total[:, -1],)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


layers = st.builds(
    DepthwiseConv,
    st.just(3),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    lookahead=st.one_of(st.just("same"), st.integers(0, 9)),
)
chunkings = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(layers, min_size=1, max_size=4), chunkings, st.integers(1, 60), st.integers(0, 60))
def test_any_net_of_convolutions_streams_what_it_computes_offline(
    parts: list[DepthwiseConv], chunks: list[int], frames: int, short: int
) -> None:
    net = Serial(*parts).double()
    lengths = torch.tensor([frames, min(short, frames)])
    check_stream(net, noise(2, 3, frames), lengths, chunks=[chunks])


@settings(deadline=None, max_examples=30)
@given(layers, chunkings, st.integers(1, 40))
def test_residuals_with_unequal_delays_meet(
    body: DepthwiseConv, chunks: list[int], frames: int
) -> None:
    shortcut = DepthwiseConv(3, 1, stride=body.stride)
    net = Residual(Serial(body, DepthwiseConv(3, 5)), shortcut, Add()).double()
    check_stream(net, noise(2, 3, frames), torch.tensor([frames, frames // 2]), chunks=[chunks])


def test_a_residual_left_unaligned_is_found_out() -> None:
    net = Residual(DepthwiseConv(3, 5), Pointwise(3, 3), Add()).double()
    check_stream(net, noise(1, 3, 40))
    net.shortcut_wait = Delay(0)
    with pytest.raises(AssertionError, match="Residual in chunks of 1"):
        check_stream(net, noise(1, 3, 40))


def test_a_layer_that_does_not_mask_is_found_out() -> None:
    class Unmasked(DepthwiseConv):
        def forward(self, c: Chunk) -> Chunk:
            return super().forward(Chunk(c.x, torch.ones_like(c.valid)))._replace(valid=c.valid)

    with pytest.raises(AssertionError, match="NaN"):
        check_stream(Unmasked(3, 5).double(), noise(2, 3, 20), torch.tensor([20, 9]))


def test_a_layer_that_reads_ahead_in_secret_is_found_out() -> None:
    layer = DepthwiseConv(3, 5, lookahead=2).double()
    layer.delay -= 1
    with pytest.raises(AssertionError):
        check_stream(layer, noise(1, 3, 20))


def test_delays_before_a_stride_are_rounded_up_to_it() -> None:
    net = Serial(DepthwiseConv(3, 7, lookahead=3), DepthwiseConv(3, 5, stride=2, lookahead=2))
    assert [wait and wait.delay for wait in net.waits] == [None, 1]
    assert (net.stride, net.delay, net.left, net.right) == (2, 3, 3 + 2, 3 + 2)


def test_weights_keep_their_names_whatever_the_delays_are() -> None:
    nets = [
        Serial(DepthwiseConv(3, 7, lookahead=ahead), DepthwiseConv(3, 5, stride=2))
        for ahead in (0, 1, 3)
    ]
    assert {tuple(net.state_dict()) for net in nets} == {("0.weight", "1.weight")}


def test_rates_compose_with_strides() -> None:
    net = Serial(Upsample(), DepthwiseConv(3, 5, stride=3), DepthwiseConv(3, 3)).double()
    assert (net.stride, net.rate) == (3, 2)
    check_stream(net, noise(2, 3, 24), torch.tensor([24, 24]), chunks=(1, 2, 5))


def test_a_chunk_that_does_not_fit_the_stride_names_what_does() -> None:
    layer = DepthwiseConv(3, 5, stride=2)
    state = layer.init_state(1, 3)
    with pytest.raises(StreamError, match="81 frames is not a multiple of stride 2; feed 80 or 82"):
        layer.step(Chunk.of(torch.zeros(1, 3, 81)), state)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_window_knows_which_of_its_frames_are_valid(stride: int) -> None:
    layer = Count(left=2, right=3, stride=stride)
    check_stream(layer, noise(2, 3, 25), torch.tensor([25, 7]))
    counts = layer(Chunk.of(noise(2, 3, 25), torch.tensor([25, 7]))).x[:, 0]
    assert counts[0, :3].tolist() == ([4, 5, 6] if stride == 1 else [4, 6, 6])
    # in the shorter row frames 4 to 6 are left before its end, and then fewer
    assert counts[1, 6 // stride].item() == 3
    assert layer(Chunk.of(noise(2, 3, 0))).x.shape == (2, 3, 0)


def test_an_output_that_is_overwritten_changes_no_later_window() -> None:
    layer = Count(left=4, right=1, stride=1)
    outputs = []
    for overwritten in (False, True):
        state = layer.init_state(2, 3, torch.float64)
        for part in noise(2, 3, 24).split(4, dim=2):
            y, state = layer.step(Chunk.of(part), state)
            outputs.append(y.x.clone())
            if overwritten:
                y.valid.fill_(False)
    assert all(map(torch.equal, outputs[:6], outputs[6:]))


@pytest.mark.parametrize("frames", [0, 1, 24, 25])
def test_a_recurrent_layer_takes_utterances_of_any_length(frames: int) -> None:
    x = noise(2, 3, frames)
    y = EverySecondSum()(Chunk.of(x))
    assert y.x.shape == (2, 3, (frames + 1) // 2)
    assert y.valid.all()
    torch.testing.assert_close(y.x, x.cumsum(2)[:, :, ::2])
    if frames == 25:
        check_stream(EverySecondSum(), x, torch.tensor([25, 12]))


def test_branches_of_different_stride_are_refused() -> None:
    with pytest.raises(StreamError, match="1/2 of the input's frame rate and the shortcut 1"):
        Residual(DepthwiseConv(3, 5, stride=2), Pointwise(3, 3), Add())


def test_serial_refuses_a_bare_module() -> None:
    with pytest.raises(TypeError, match="as_layer"):
        Serial(nn.ReLU())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["stride", "rate", "delay", "left", "right"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (nn.Linear(2, 2), "of type Linear"),
        (nn.Parameter(torch.ones(2)), "of type Parameter"),
        (torch.tensor(2), "of type Tensor"),
        ("same", "of type str"),
        (None, "of type NoneType"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_reserved_attribute_takes_only_a_number(name: str, value: Any, shown: str) -> None:
    layer = StreamLayer()
    with pytest.raises(TypeError, match=rf"StreamLayer\.{name} is {shown}.*such as {name}_"):
        setattr(layer, name, value)
    with pytest.raises(TypeError, match=rf"^Mine\.{name} is {shown}"):
        type("Mine", (StreamLayer,), {name: value})


def test_whole_numbers_of_frames_are_whole() -> None:
    layer = StreamLayer()
    for name in ("stride", "rate", "delay"):
        with pytest.raises(TypeError, match=rf"{name} is 0\.5"):
            setattr(layer, name, 0.5)
    with pytest.raises(TypeError, match="left is of type function"):
        type("Mine", (StreamLayer,), {"left": lambda self: 2})
    layer.stride, layer.left, layer.right = np.int64(2), Fraction(1, 2), math.inf
    halves = type("Halves", (StreamLayer,), {"right": property(lambda self: 3)})
    assert (layer.stride, layer.left, layer.right, halves().right) == (2, 0.5, math.inf, 3)


def test_mask_stops_nan() -> None:
    c = Chunk.of(torch.tensor([[[1.0, torch.nan]]]), torch.tensor([1]))
    assert c.masked.tolist() == [[[1.0, 0.0]]]
    assert c.lengths.tolist() == [1]


def test_a_step_leaves_its_state_alone() -> None:
    layer = Serial(DepthwiseConv(3, 5), FrameWise(nn.ReLU()))
    state = layer.init_state(1, 3)
    before = state[0][0].clone()
    layer.step(Chunk.of(torch.ones(1, 3, 8)), state)
    assert torch.equal(state[0][0], before)


def test_rows_of_a_stream_do_not_touch() -> None:
    net = Serial(DepthwiseConv(3, 5), DepthwiseConv(3, 5, stride=2)).double()
    x = noise(2, 3, 30)
    both = stream(net, Chunk.of(x), [3])
    x[1] = 1e6
    assert torch.equal(stream(net, Chunk.of(x), [3]).x[0], both.x[0])
