"""Activations are found one by one, and others put in their places."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from speechkit_compression.relu_surgery import activations, relus_per_frame, with_activations

import speechkit as sk
from speechkit import Component, hookimpl
from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.models import Net
from speechkit.plugins import Registry, using

RELU, IDENTITY, SILU = Spec("relu"), Spec("identity"), Spec("silu")


@hookimpl
def speechkit_activations() -> list[Component]:
    return [Component(name="halves", factory=torch.nn.GLU, summary="a gate", in_factor=2)]


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (sk.QuartzNet(size="15x5"), 32512),
        (sk.MatchboxNet(size="3x1x64", labels=("a",)), 576),
        (sk.MarbleNet(size="3x2x64"), 768),
        (sk.MarbleNet(size="3x2x64", frame_level=True), 768),
    ],
)
def test_paper_034_relus_of_the_named_nets_are_counted(config: Net, count: int) -> None:
    assert relus_per_frame(activations(config, "x")) == count


def test_a_row_before_a_stride_counts_twice() -> None:
    blocks = (
        sk.Block(channels=8, kernel=3, stride=2),
        sk.Block(channels=8, kernel=3, repeat=2, residual=True, activation=("relu", "silu")),
        sk.Block(channels=4, kernel=3, stride=2),
        sk.Block(channels=2, kernel=1, copies=2),
    )
    found = activations(sk.QuartzNet(blocks=blocks), "x")
    assert [each.per_frame for each in found] == [16, 16, 16, 4, 2, 2]
    assert [(each.row, each.sub) for each in found] == [
        (0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0),
    ]  # fmt: skip
    assert [each.stage for each in found] == [0, 1, 1, 2, 3, 3]
    assert [str(each.spec) for each in found] == ["relu", "relu", "silu", "relu", "relu", "relu"]
    assert relus_per_frame(found) == 16 + 16 + 4 + 2 + 2


def test_the_chosen_places_alone_change(model: sk.Model) -> None:
    specs = [each.spec for each in activations(model.config, "x")]
    specs[0], specs[2] = IDENTITY, SILU
    made = with_activations(model, specs)
    assert [each.spec for each in activations(made.config, "x")] == specs
    assert made.config.blocks[0].activation == IDENTITY
    assert made.config.blocks[1].activation == (RELU, SILU)
    assert all(block.activation is None for block in made.config.blocks[2:])
    old, new = model.state_dict(), made.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(x, old[name]) for name, x in new.items())


def test_the_same_activations_are_the_same_net(model: sk.Model) -> None:
    specs = [each.spec for each in activations(model.config, "x")]
    made = with_activations(model, specs)
    features = torch.randn(2, 16, 60, generator=torch.Generator().manual_seed(0))
    chunk = sk.nn.Chunk.of(features)
    assert torch.equal(made.score(chunk).scores, model.score(chunk).scores)


def test_one_activation_for_all_becomes_that_of_the_net(model: sk.Model) -> None:
    count = len(activations(model.config, "x"))
    made = with_activations(model, [IDENTITY] * count)
    assert made.config.activation == IDENTITY
    assert all(block.activation is None for block in made.config.blocks)


def test_gates_and_other_blocks_are_refused() -> None:
    stem = sk.Block(channels=8, kernel=3, stride=2)
    row = sk.Block(channels=8, kernel=3, residual=True)
    gates = SimpleNamespace(__name__="gates", speechkit_activations=speechkit_activations)
    known = Registry({"SPEECHKIT_PLUGINS": ""})
    known.add(gates, "gates")
    with using(known):
        gated = sk.QuartzNet(blocks=(stem, row), activation="halves")
        with pytest.raises(ConfigError, match="transform x: activation halves is gated"):
            activations(gated, "x")
    skips = sk.QuartzNet(blocks=(stem, replace(row, block="skip")))
    with pytest.raises(ConfigError, match="x takes a net with block=core/plain, not block=core/sk"):
        activations(skips, "x")
