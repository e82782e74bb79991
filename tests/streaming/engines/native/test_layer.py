"""The native step against torch's, net by net, and the reasons for doing without."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import speechkit as sk
from speechkit.frontend import Resample, Running
from speechkit.models import Model, Net
from speechkit.native.libraries import load
from speechkit.nn import Add, Chunk, Delay, FrameWise, Residual, Serial, State, StreamLayer
from speechkit.nn.lowering import Lowering
from speechkit.plans import program
from speechkit.plans.engine import SOURCE
from speechkit.plans.program import LoweringError, Value
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.testing import assert_close, dyadic_

pytestmark = [
    pytest.mark.skipif(isinstance(load(SOURCE), str), reason="there is no C++ compiler"),
    pytest.mark.usefixtures("poisoned_memory"),
]
FIXED = "log_mel:n_mels=40,normalize=fixed"
BLOCKS = (
    sk.Block(channels=24, kernel=5, stride=2),
    sk.Block(channels=24, kernel=7, repeat=2, residual=True),
    sk.Block(channels=40, kernel=6, dilation=2),
    sk.Block(channels=32, kernel=1, separable=False),
)
NETS = {
    "marblenet": sk.MarbleNet(frame_level=True, lookahead=(1, 2, 0, 1, 0, 0)),
    "matchboxnet": sk.MatchboxNet(size="3x1x64", labels=tuple("abc"), lookahead=2),
    "quartznet": sk.QuartzNet(blocks=BLOCKS, frontend=FIXED),
    "silu": sk.QuartzNet(blocks=BLOCKS, frontend=FIXED, activation="silu", lookahead=0),
    "hardtanh": sk.QuartzNet(blocks=BLOCKS, frontend=FIXED, activation="hardtanh:low=-1,high=2"),
    "identity": sk.QuartzNet(blocks=BLOCKS, frontend=FIXED, activation="identity"),
    "pcen": sk.MarbleNet(
        frame_level=True,
        frontend="log_mel:n_mels=40,normalize=pcen:time_constant_frames=100",
        lookahead=0,
    ),
    "running": sk.MarbleNet(frame_level=True, frontend="log_mel:normalize=running", lookahead=0),
    "dense": sk.QuartzNet(
        blocks=(
            sk.Block(channels=24, kernel=5, stride=2, separable=False),
            sk.Block(channels=20, kernel=4, dilation=3, separable=False, residual=True),
        ),
        frontend=FIXED,
    ),
    "one channel": sk.QuartzNet(blocks=(sk.Block(channels=1, kernel=5, stride=2),), frontend=FIXED),
    "one feature": sk.QuartzNet(blocks=BLOCKS, frontend="log_mel:n_mels=1,normalize=fixed"),
    "norm none": sk.QuartzNet(blocks=BLOCKS, frontend=FIXED, norm="none", lookahead=1),
}


def lively(config: Net) -> Model:
    """Weights and statistics that let nothing vanish or cancel."""
    model, generator = sk.build(config).eval(), torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "std")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif name.endswith(("running_mean", "bias", ".mean")):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return model


def stepped(layer: StreamLayer, x: Tensor, real: int, block: int) -> Tensor:
    """The valid scores of `x [B, N]`, of which `real` samples are sound, block by block."""
    state, found = layer.init_state(len(x), 1), []
    for start in range(0, x.shape[1], block):
        valid = torch.arange(start, start + block) < real
        chunk = Chunk(x[:, None, start : start + block].contiguous(), valid.expand(len(x), -1))
        y, state = layer.step(chunk, state)
        found.append(y.x[:, :, y.valid[0]])
    return torch.cat(found, dim=2)


@pytest.mark.parametrize("strides", [1, 3])
@pytest.mark.parametrize("name", NETS)
def test_scores_are_torchs(name: str, strides: int) -> None:
    layer = lively(NETS[name]).stream_layer()
    block = strides * layer.stride
    count = 40
    x = torch.rand(2, count * block, generator=torch.Generator().manual_seed(0)) - 0.5
    real = x.shape[1] - layer.delay * layer.stride - 3 * block - 77
    x[:, real:] = torch.nan  # what is not valid may be anything
    with torch.inference_mode():
        expected = stepped(layer, x, real, block)
        got = stepped(NativeLayer(layer, block), x, real, block)
    assert expected.shape[2] > 5
    assert_close(name, expected, got, 1e-4)


@pytest.mark.parametrize("name", NETS)
def test_blocks_computed_together_give_the_same_bits(name: str) -> None:
    layer = lively(NETS[name]).stream_layer()
    block = layer.stride
    native_layer, size = NativeLayer(layer, block), 3
    # so that a group begins within a session
    blocks = native_layer.plan.group + 2
    x = torch.rand(size, 3 * blocks * block, generator=torch.Generator().manual_seed(0)) - 0.5
    alone, together = (native_layer.new_sessions(size) for _ in range(2))
    steps = together.steps(size, blocks)
    for part in x.split(blocks * block, dim=1):
        steps(part.contiguous().numpy())
        for index, one in enumerate(part.split(block, dim=1)):
            valid = torch.ones(size, block, dtype=torch.bool)
            y, _ = native_layer.step(Chunk(one[:, None].contiguous(), valid), alone)
            assert np.array_equal(y.valid, steps.valid[:, index])
            some = y.valid[0].numpy()
            assert np.array_equal(y.x.transpose(1, 2)[:, some], steps.y[:, index][:, some])
        assert np.array_equal(alone.native, together.native)
    assert some.any()


class Doubled(nn.Module):
    """A plugin's module that says its native form."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.affine(x, torch.full((x.channels,), 2.0), torch.zeros(x.channels))


class Tripled(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * x


class Weighted(nn.Module):
    """A merge rule of a plugin."""

    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return shortcut + 2 * body

    def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
        return program.merge(Add(), shortcut, program.add(Doubled(), body))


def test_a_plugins_layer_lowers_itself() -> None:
    net = lively(NETS["quartznet"]).stream_layer()
    wide = net.channels_out(1)
    body = Serial(Delay(2), FrameWise(Doubled()))
    layer = Serial(net=net, more=Residual(body, FrameWise(nn.ReLU()), Weighted()))
    x = torch.rand(1, 40 * layer.stride, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.inference_mode():
        expected = stepped(layer, x, x.shape[1], layer.stride)
        native_layer = NativeLayer(layer, layer.stride)
        assert_close("plugin", expected, stepped(native_layer, x, x.shape[1], layer.stride), 1e-4)
    assert native_layer.channels == wide


def test_what_a_layer_lowers_and_does_not_use_is_left_out() -> None:
    class Wasteful(Doubled):
        def lower(self, program: Lowering, x: Value) -> Value:
            program.scaled(x, 5.0)
            y = super().lower(program, x)
            program.scaled(y, 7.0)
            return y

    layer, x = FrameWise(Wasteful()), torch.randn(1, 3, 4)
    native_layer = NativeLayer(layer, 4, c_in=3)
    assert torch.equal(native_layer.step(Chunk.of(x), native_layer.new_sessions(1))[0].x, 2 * x)
    program = Lowering()
    program.end(program.add(layer, program.input(1, 3)))
    assert len(program.instructions) == 1


@pytest.mark.parametrize("module", [Tripled(), nn.Softsign()])
def test_a_layer_without_a_native_form_runs_in_torch_alone(module: nn.Module) -> None:
    net = lively(NETS["quartznet"]).stream_layer()
    layer = Serial(net=net, more=FrameWise(module), last=FrameWise(nn.ReLU()))
    x = torch.rand(2, 40 * layer.stride, generator=torch.Generator().manual_seed(0)) - 0.5
    native_layer = NativeLayer(layer, layer.stride)
    assert native_layer.in_torch == [type(module).__name__]
    with torch.inference_mode():
        expected = stepped(layer, x, x.shape[1], layer.stride)
        assert_close("called", expected, stepped(native_layer, x, x.shape[1], layer.stride), 1e-4)


def test_a_merge_rule_and_a_layer_with_a_state_run_in_torch_too() -> None:
    class Mean(nn.Module):
        def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
            return (shortcut + body) / 2

    class Sum(sk.nn.RunningAverage):
        """Without `lower`, since it computes something else."""

        def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
            y, state = super().step(c, state)
            return Chunk(2 * y.x, y.valid), state

    net = lively(NETS["quartznet"]).stream_layer()
    layer = Serial(net=net, more=Residual(Sum(), StreamLayer(), Mean()))
    x = torch.rand(2, 40 * layer.stride, generator=torch.Generator().manual_seed(0)) - 0.5
    native_layer = NativeLayer(layer, layer.stride)
    assert native_layer.in_torch == ["Sum", "Mean"]
    with torch.inference_mode():
        expected = stepped(layer, x, x.shape[1], layer.stride)
        assert_close("called", expected, stepped(native_layer, x, x.shape[1], layer.stride), 1e-4)


def test_an_error_of_a_layer_in_torch_is_raised() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("it is broken")

    layer = Serial(net=lively(NETS["quartznet"]).stream_layer(), more=FrameWise(Broken()))
    with pytest.raises(RuntimeError, match="it is broken"):
        stepped(NativeLayer(layer, layer.stride), torch.zeros(1, layer.stride), 1, layer.stride)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_rates_are_resampled_too(rate: int) -> None:
    model = lively(NETS["marblenet"])
    layer = Serial(resample=Resample(rate, 16000), net=model.stream_layer())
    x = torch.rand(1, 30 * layer.stride, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.inference_mode():
        expected = stepped(layer, x, x.shape[1], layer.stride)
        got = stepped(NativeLayer(layer, layer.stride), x, x.shape[1], layer.stride)
    assert_close(str(rate), expected, got, 1e-4)


def test_a_clip_classifier_slides() -> None:
    model = lively(NETS["matchboxnet"])
    layer = model.stream_layer(window_s=0.3)
    x = torch.rand(1, 200 * layer.stride, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.inference_mode():
        expected = stepped(layer, x, x.shape[1], layer.stride)
        got = stepped(NativeLayer(layer, layer.stride), x, x.shape[1], layer.stride)
    assert_close("sliding", expected, got, 1e-4)


def test_sessions_use_it_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(NETS["marblenet"])
    assert sk.StreamBatch(model, 1).backend == "native"
    with sk.ops.use_impl("torch"):
        assert "'torch' was asked for" in sk.StreamBatch(model, 1).backend
    assert "not torch.float64" in sk.StreamBatch(lively(NETS["marblenet"]).double(), 1).backend
    running = replace(NETS["marblenet"], frontend="log_mel:normalize=running")
    assert sk.StreamBatch(sk.build(running).eval(), 1).backend == "native"
    monkeypatch.delattr(Running, "lower")
    assert sk.StreamBatch(sk.build(running).eval(), 1).backend == "native, in torch: Running"


def net_of(batch: sk.StreamBatch) -> StreamLayer:
    net: StreamLayer = batch._scheduler.engine.net
    return net


def test_sessions_share_one_plan_until_a_weight_changes() -> None:
    model = lively(NETS["marblenet"])
    first, second = (sk.StreamBatch(model, 1) for _ in range(2))
    assert net_of(first) is net_of(second)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert net_of(sk.StreamBatch(model, 1)) is not net_of(first)


def test_events_are_those_of_torchs_session() -> None:
    model = lively(NETS["quartznet"])
    x = torch.rand(30_000, generator=torch.Generator().manual_seed(1)) - 0.5
    texts = []
    for impl in ("auto", "torch"):
        with sk.ops.use_impl(impl):
            stream = sk.stream(model)
            events = stream.feed(x) + stream.finish()
        texts.append([getattr(event, "text", "") for event in events])
    assert texts[0] == texts[1]


def test_a_subclass_of_a_known_layer_is_not_taken_for_it() -> None:
    class Doubled(sk.nn.DepthwiseConv):
        def convolve(self, window: Tensor) -> Tensor:
            return 2 * super().convolve(window)

    assert NativeLayer(Serial(Doubled(4, 3)), 160, c_in=4).in_torch == ["Doubled"]
    with pytest.raises(LoweringError, match="no native Doubled"):
        NativeLayer(Serial(Doubled(1, 3)), 160)


def test_instructions_and_fields_are_those_of_the_source() -> None:
    table = SOURCE.read_text(encoding="utf-8").split("OPERATIONS[] = {")[1].split("};")[0]
    assert re.findall(r'{"(\w+)"', table) == list(program.CODES)
    text = SOURCE.with_name("program.h").read_text(encoding="utf-8")
    assert members(text, "Source") == list(program.FIELDS)


def members(text: str, struct: str) -> list[str]:
    """The names that a struct of the source declares, in order."""
    body = text.split(f"struct {struct} {{")[1].split("}")[0]
    declared = [line.strip().rstrip(";") for line in body.strip().splitlines()]
    names = itertools.chain.from_iterable(line.split(", ") for line in declared)
    return [name.split(" ")[-1].lstrip("*") for name in names]


def test_a_dyadic_net_gives_torchs_bits() -> None:
    model = sk.build(NETS["quartznet"]).eval()
    net, c_in = Serial(model.stem, model.encoder), 40
    dyadic_(net)
    x = torch.randint(-4, 5, (2, 64, c_in), generator=torch.Generator().manual_seed(0)).float()
    native_layer = NativeLayer(net, net.stride, c_in=c_in)
    states = [net.init_state(2, c_in), native_layer.new_sessions(2)]
    for part in x.split(net.stride, dim=1):
        c = Chunk(part.transpose(1, 2), torch.ones(2, net.stride, dtype=torch.bool))
        found = []
        for index, layer in enumerate((net, native_layer)):
            with torch.inference_mode():
                y, states[index] = layer.step(c, states[index])
            found.append(y)
        assert torch.equal(found[0].valid, found[1].valid)
        assert torch.equal(found[0].masked, found[1].masked)
    assert found[0].masked.abs().max() > 2
