"""What runs each layer, and why nothing faster does."""

import importlib

import pytest
import torch
from torch import Tensor, nn

import speechkit as sk
from speechkit.native.libraries import load
from speechkit.nn import DenseConv, DepthwiseConv, FrameWise, Pointwise, Serial
from speechkit.ops.explain import Choice, explain, implementations
from speechkit.ops.separable_conv import cpu

compiled = pytest.mark.skipif(isinstance(load(cpu.SOURCE), str), reason="there is no C++ compiler")
OPS = ("depthwise_conv", "linear", "batch_norm", "separable_conv")
MISSING = "no C++ compiler (c++)"


class Cubic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x**3


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("native", "linear.cpu", "separable_conv.cpu"):
        module = importlib.import_module(f"speechkit.ops.{name}")
        monkeypatch.setattr(module, "load", lambda source: MISSING)


def net() -> Serial:
    return Serial(mixer=DepthwiseConv(8, 5), channel=Pointwise(8, 6), odd=FrameWise(Cubic()))


def lines(model: nn.Module) -> list[str]:
    return [str(choice) for choice in explain(model)]


@compiled
def test_each_layer_says_what_it_runs() -> None:
    assert lines(net()) == [
        "mixer: depthwise_conv by cpu",
        "channel: linear by cpu",
        "odd: Cubic by itself",
    ]


@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_what_is_asked_for_is_what_runs(impl: str) -> None:
    with sk.ops.use_impl(impl):
        assert lines(net())[:2] == [
            f"mixer: depthwise_conv by {impl}",
            f"channel: linear by {impl}",
        ]


def test_an_op_without_the_implementation_asked_for_takes_the_best() -> None:
    pytest.importorskip("numba")
    with sk.ops.use_impl("numba"):
        mixer, channel, _ = explain(net())
    assert mixer.impl == "numba"
    assert channel.impl == explain(net())[1].impl != "numba"


def test_weights_in_float64_say_why_not() -> None:
    _, channel, _ = explain(net().double())
    assert channel.impl == "torch"
    assert list(channel.refused) == ["cpu"]
    assert "it computes in float32, not torch.float64" in channel.refused["cpu"]
    prepared = sk.prepare(sk.load("vad").double())
    assert lines(prepared)[1].startswith(
        "stem.0: separable_conv by torch; not cpu: it takes float32, not torch.float64; not triton"
    )


def test_without_a_compiler_each_op_says_so(no_compiler: None) -> None:
    model = sk.load("vad")
    assert "stem.body.0.channel: linear by torch; not cpu: " + MISSING in lines(model)
    prepared = explain(sk.prepare(model))
    assert {c.impl for c in prepared if c.op == "separable_conv"} == {"torch"}
    assert all(MISSING in str(c) for c in implementations())
    mixer = next(c for c in explain(model) if c.op == "depthwise_conv")
    assert mixer.impl in ("numba", "torch")


def test_a_prepared_model_has_a_line_for_each_sub_block() -> None:
    model = sk.load("vad")
    named = {choice.layer for choice in explain(sk.prepare(model))}
    assert {"stem.0", "encoder.0.head.0", "encoder.0.last", "encoder.0.shortcut.0"} <= named
    assert not any("mixer" in name or "activation" in name for name in named)
    assert len(named) < len(explain(model))


def test_what_could_not_join_a_sub_block_stands_by_itself() -> None:
    model = sk.build(sk.MatchboxNet(size="3x1x64", labels=("yes", "no"))).eval()
    model.stem = Serial(model.stem, FrameWise(Cubic()))
    assert "stem.1: Cubic by itself" in lines(sk.prepare(model))


def test_a_dense_convolution_of_kernel_1_runs_an_op() -> None:
    assert [choice.op for choice in explain(DenseConv(8, 6, 1))] == ["linear"]


def test_every_op_says_what_it_runs_here() -> None:
    assert tuple(choice.op for choice in implementations()) == OPS
    with sk.ops.use_impl("torch"):
        assert {choice.impl for choice in implementations()} == {"torch"}


def test_a_choice_reads_as_a_line() -> None:
    choice = Choice("linear", "torch", {"cpu": "too far", "numba": "not installed"})
    assert str(choice) == "linear: by torch; not cpu: too far; not numba: not installed"
    assert str(choice._replace(layer="head", refused={})) == "head: linear by torch"


@pytest.mark.parametrize(
    "impl",
    [
        pytest.param(
            "cpu",
            marks=compiled,
        ),
        "numba",
        "torch",
        "reference",
    ],
)
def test_a_model_runs_by_any_implementation_asked_for(impl: str) -> None:
    if impl == "numba":
        pytest.importorskip("numba")
    model = sk.load("digits")
    x = torch.rand(1, 4000, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = model(x).scores
    with sk.ops.use_impl(impl):
        torch.testing.assert_close(model(x).scores, expected, atol=1e-4, rtol=1e-4)
