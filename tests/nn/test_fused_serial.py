"""A row that joins its norms with what is behind them computes what its layers do one by one."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from speechkit.nn import (
    Add,
    BatchNorm,
    Bias,
    BodyMaker,
    Chunk,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    Residual,
    Serial,
    StreamLayer,
    plain_block,
)
from speechkit.nn.fused_serial import FusedSerial
from speechkit.testing import assert_close


class DoubledNorm(BatchNorm):
    def forward(self, c: Chunk) -> Chunk:
        return Chunk(super().forward(c).x * 2, c.valid)


class DoubledAdd(Add):
    def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
        return 2 * shortcut + body


class OwnRelu(nn.Module):
    expression = "relu(x)"

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)


def row(c_in: int = 4, **changes: Callable[[], nn.Module]) -> FusedSerial:
    """A sub-block, ReLU, then a residual block, ReLU; `changes` put other modules in."""
    made = {"norm": lambda: BatchNorm(6), "relu": nn.ReLU, "add": Add, "drop": nn.Identity}
    made |= changes

    def act() -> Serial:
        return Serial(activation=FrameWise(made["relu"]()), drop=FrameWise(made["drop"]()))

    body = FusedSerial(
        Serial(mixer=DepthwiseConv(6, 3), channel=Pointwise(6, 6), norm=made["norm"]()),
        act(),
        Serial(channel=Pointwise(6, 6), norm=made["norm"]()),
    )
    shortcut = Serial(channel=Pointwise(6, 6), norm=made["norm"]())
    first = Serial(channel=Pointwise(c_in, 6), norm=made["norm"]())
    net = FusedSerial(
        first=first, act=act(), sum=Residual(body, shortcut, made["add"]()), after=act()
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    return net.double().train()


def ragged() -> Chunk:
    x = torch.randn(3, 20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    c = Chunk.of(x.transpose(1, 2), torch.tensor([20, 11, 5]))
    return Chunk(c.x.masked_fill(~c.valid[:, None], 1000), c.valid)


def fused_ops(net: StreamLayer, c: Chunk) -> int:
    """How many norms compute what is behind them."""
    with patch.object(
        BatchNorm, "normalize_batch", autospec=True, side_effect=BatchNorm.normalize_batch
    ) as norm:
        net(c)
    return sum(bool(call.args[2:] or call.kwargs) for call in norm.call_args_list)


def results(net: StreamLayer, c: Chunk) -> dict[str, Tensor]:
    """Output, gradients and running statistics of a step."""
    net.zero_grad()
    x = c.x.detach().requires_grad_()
    y = net(Chunk(x, c.valid)).masked
    y.square().sum().backward()
    assert x.grad is not None
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": x.grad, **grads, **dict(net.named_buffers())}


def by_layer(net: FusedSerial) -> Serial:
    """The same layers in a row that joins nothing."""
    return Serial(**dict(net.named_children()))  # type: ignore[arg-type]


def assert_equal_to_its_layers(make: Callable[[], FusedSerial]) -> None:
    ours, theirs = results(make(), ragged()), results(by_layer(make()), ragged())
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert_close(name, expected.double(), ours[name].double(), 1e-12)


@pytest.mark.usefixtures("poisoned_memory")
def test_it_computes_what_its_layers_do() -> None:
    assert_equal_to_its_layers(row)
    # Identity is a layer between: only where nothing is does one join
    assert fused_ops(row(), ragged()) == 3


@pytest.mark.parametrize(
    ("change", "fused"),
    [
        ({"relu": OwnRelu}, 0),
        ({"relu": nn.SiLU}, 0),
        ({"norm": lambda: DoubledNorm(6)}, 0),
        ({"norm": lambda: FrameWise(Bias(6))}, 0),
        ({"add": DoubledAdd}, 2),
    ],
)
def test_only_layers_that_it_knows_are_fused(
    change: dict[str, Callable[[], nn.Module]], fused: int
) -> None:
    assert fused_ops(row(**change), ragged()) == fused
    assert_equal_to_its_layers(lambda: row(**change))


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("first", 2),
        ("first.norm", 2),
        ("act.activation.module", 2),
        ("sum", 2),
        ("sum.merge", 2),
        ("sum.body", 2),
        ("sum.body.2.norm", 2),
        ("sum.shortcut.norm", 3),
        ("after", 2),
    ],
)
def test_a_hook_sees_what_its_layer_computes(name: str, fused: int) -> None:
    seen = []
    for net in (row(), by_layer(row())):
        net.get_submodule(name).register_forward_hook(lambda *given: seen.append(given[2]))
        net(ragged())
    ours, theirs = (value.masked if isinstance(value, Chunk) else value for value in seen)
    assert_close(name, theirs, ours, 1e-12)
    net = row()
    net.get_submodule(name).register_full_backward_hook(lambda *given: None)
    assert fused_ops(net, ragged()) == fused


def test_a_frozen_norm_stays_in_evaluation() -> None:
    net = row()
    net.get_submodule("sum.body.2.norm").eval()
    assert fused_ops(net, ragged()) == 2
    assert fused_ops(net.eval(), ragged()) == 0


def test_dropout_between_is_kept() -> None:
    maker = BodyMaker(
        kernel=3,
        repeat=2,
        dropout=0.5,
        mixer=DepthwiseConv,
        channel=Pointwise,
        norm=BatchNorm,
        activation=lambda channels: FrameWise(nn.ReLU()),
        merge=lambda channels, index, depth: Add(),
    )
    net = plain_block(4, 4, maker).train()
    c = Chunk.of(ragged().masked.float())
    torch.manual_seed(0)
    y = net(c)
    torch.manual_seed(0)
    assert_close("y", by_layer(net)(c).x, y.x, 1e-5)
    assert (y.x == 0).float().mean() > 0.5
