"""A net whose state is rings against the net itself: look-ahead, ends, sessions apart."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import speechkit as sk
from speechkit.models import Model, Net
from speechkit.nn import Chunk, FrameWise, Serial, StreamLayer
from speechkit.ops.separable_conv import ActiveRows
from speechkit.streaming.engines.cuda.ring_net import Memory, RingConv, RingNet
from speechkit.testing import assert_close

FIXED = "log_mel:n_mels=16,normalize=fixed"
BLOCKS = (
    sk.Block(channels=24, kernel=5, stride=2),
    sk.Block(channels=24, kernel=7, repeat=2, residual=True),
    sk.Block(channels=20, kernel=6, dilation=2, repeat=1, residual=True),
    sk.Block(channels=16, kernel=1, separable=False),
)
NETS: dict[str, Net] = {
    "marblenet": sk.MarbleNet(frame_level=True, blocks=BLOCKS, lookahead=(1, 2, 1, 0)),
    "matchboxnet": sk.MatchboxNet(labels=tuple("abc"), blocks=BLOCKS, lookahead=2),
    "quartznet": sk.QuartzNet(blocks=BLOCKS, frontend=FIXED, lookahead="same"),
    "silu": sk.QuartzNet(blocks=BLOCKS, frontend=FIXED, activation="silu", lookahead=0),
    "pcen": sk.MarbleNet(
        frame_level=True,
        blocks=BLOCKS,
        frontend="log_mel:n_mels=16,normalize=pcen:time_constant_frames=100",
        lookahead=0,
    ),
    "running": sk.MarbleNet(
        frame_level=True, blocks=BLOCKS, frontend="log_mel:n_mels=16,normalize=running"
    ),
    "norm none": sk.QuartzNet(blocks=BLOCKS, frontend=FIXED, norm="none", lookahead=1),
}


def lively(config: Net) -> Model:
    """Weights and statistics that let nothing vanish or cancel, in float64."""
    model, generator = sk.build(config).eval(), torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "std")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif name.endswith(("running_mean", "bias", ".mean")):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return model.double()


def expected(layer: StreamLayer, x: torch.Tensor, real: int) -> torch.Tensor:
    """The valid scores `[1, n, T]` of samples `[N]`, of which the first `real` are sound."""
    state, found = layer.init_state(1, 1, torch.float64), []
    for part, valid in zip(
        x.split(layer.stride), (torch.arange(len(x)) < real).split(layer.stride), strict=True
    ):
        y, state = layer.step(Chunk(part[None, None], valid[None]), state)
        found.append(y.x[:, :, y.valid[0]])
    return torch.cat(found, dim=2)


@pytest.mark.parametrize("name", NETS)
def test_each_row_has_the_scores_of_the_net_alone(name: str) -> None:
    layer = lively(NETS[name]).stream_layer(0.3 if name == "matchboxnet" else None)
    net, most = RingNet(layer, torch.float64), 3
    generator = torch.Generator().manual_seed(0)
    steps = -(-layer.delay // layer.rate) + 12
    memory = Memory(net, 3, most)
    memory.reset(torch.tensor([2, 0]))
    sound = torch.rand(2, most * steps * layer.stride, generator=generator).double() - 0.5
    ends = [12 * layer.stride - 77, 9 * layer.stride]
    for row, end in zip(sound, ends, strict=True):
        row[end:] = torch.nan
    found: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    at, sizes = [0, 0], [1, 3, 2]
    for turn_index in range(steps):
        strides = sizes[turn_index % 3]
        count = strides * layer.stride
        # both, in any order; or one of them and nobody
        rows = [[0, 1], [1, 0], [1], [0]][turn_index % 4]
        slots = torch.tensor([{0: 2, 1: 0}[row] for row in rows] + [-1])
        parts = [sound[row, at[row] : at[row] + count] for row in rows]
        x = torch.stack([*parts, torch.full((count,), torch.nan)])
        real = torch.tensor([max(0, min(count, ends[row] - at[row])) for row in rows] + [0])
        y = net.step(memory, ActiveRows(slots, memory.counts, strides), x, real)
        for row, scores, valid in zip(rows, y.x, y.valid, strict=False):
            found[row].append(scores[:, valid])
            at[row] += count
    for row in (0, 1):
        wanted = expected(layer, sound[row, : at[row]], ends[row])
        assert wanted.shape[2] > 2
        assert_close(f"row {row}", wanted[0], torch.cat(found[row], dim=1), 1e-12)


@pytest.mark.parametrize("name", NETS)
def test_no_step_asks_the_device_what_it_holds(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # autocast does not know tensors without values
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    # they refuse to be asked, and to meet those of another device: a graph can replay it
    window_s = 0.3 if name == "matchboxnet" else None
    layer = sk.build(NETS[name]).eval().to("meta").stream_layer(window_s)
    net = RingNet(layer, impl="reference")
    memory = Memory(net, 2, 2, "meta")
    slots, real = (torch.zeros(2, dtype=torch.int64, device="meta") for _ in range(2))
    x = torch.zeros(2, 2 * net.stride, device="meta")
    y = net.step(memory, ActiveRows(slots, memory.counts, 2), x, real)
    assert y.x.shape == (2, net.channels, 2 * net.rate)


def test_a_row_that_starts_anew_remembers_nothing() -> None:
    layer = lively(NETS["running"]).stream_layer()
    net = RingNet(layer, torch.float64)
    memory = Memory(net, 2, 1)
    x = torch.rand(2, 30 * layer.stride, generator=torch.Generator().manual_seed(0)).double()
    slots, real = torch.tensor([0, 1]), torch.full((2,), layer.stride)

    def run() -> list[Chunk]:
        active = ActiveRows(slots, memory.counts, 1)
        return [net.step(memory, active, part, real) for part in x.split(layer.stride, dim=1)]

    first = run()
    memory.reset(torch.tensor([1]))
    second = run()
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.valid[1], other.valid[1])
        assert torch.equal(one.x[1], other.x[1])
    assert not torch.equal(first[-1].x[0], second[-1].x[0])


def test_a_block_is_one_op_for_each_convolution() -> None:
    net = RingNet(lively(NETS["quartznet"]).stream_layer(), torch.float64)
    convs = [op for op in net.ops if isinstance(op, RingConv)]
    # stem, two of a block with its shortcut in the last, one with a shortcut, two without taps
    assert [op.projection is not None for op in convs] == [False, False, True, True, False, False]
    assert len(net.layers()) == 2  # front end, log softmax
    lines = [str(choice) for choice in sk.ops.explain(net)]
    assert sum(": separable_conv 24→24, kernel=7" in line for line in lines) == 2
    assert any("LogSoftmax ring" in line and line.endswith("by torch") for line in lines)


class Cubic(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * x**3


def test_layers_it_does_not_know_run_as_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    body = sk.nn.Serial(sk.nn.DepthwiseConv(4, 5, lookahead=2), FrameWise(Cubic()))
    block = sk.nn.Residual(body, FrameWise(Cubic()), sk.nn.Add())
    layer = Serial(
        sk.nn.DenseConv(1, 4, 3, stride=3, lookahead=0),
        block,
        FrameWise(Cubic()),
        sk.nn.Pointwise(4, 6),
        FrameWise(Cubic()),
    ).double()
    net = RingNet(layer, torch.float64)
    memory = Memory(net, 1, 1)
    x = torch.randn(20 * layer.stride, dtype=torch.float64, generator=generator)
    active, real = ActiveRows(torch.tensor([0]), memory.counts, 1), torch.tensor([layer.stride])
    with torch.no_grad():
        got = [net.step(memory, active, part[None], real) for part in x.split(layer.stride)]
        wanted = expected(layer, x, len(x))
    assert_close("y", wanted[0], torch.cat([y.x[0, :, y.valid[0]] for y in got], dim=1), 1e-12)


def test_frames_may_be_kept_in_bfloat16() -> None:
    model = lively(NETS["marblenet"]).float()
    nets = [RingNet(model.stream_layer(), precision=p) for p in ("float32", "bfloat16")]
    x = torch.rand(1, 40 * nets[0].stride, generator=torch.Generator().manual_seed(0)) - 0.5
    found, sizes = [], []
    for net in nets:
        memory = Memory(net, 1, 40)
        active = ActiveRows(torch.tensor([0]), memory.counts, 40)
        y = net.step(memory, active, x, torch.tensor([x.shape[1]]))
        found.append(y.x[0, :, y.valid[0]])
        sizes.append(memory.bytes_each)
    assert_close("y", *found, 0.05)
    assert sizes[1] < 0.8 * sizes[0]
