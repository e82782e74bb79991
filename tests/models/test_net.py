"""Rows of a net that name their own parts."""

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import speechkit as sk
from speechkit.checkpoint import AnyNet
from speechkit.component import Spec
from speechkit.config import from_dict, override, to_dict
from speechkit.errors import ConfigError, PluginError, SpeechkitError
from speechkit.models import Block, MatchboxNet, Model
from speechkit.nn import BodyMaker, Chunk, FrameWise, Serial, StreamLayer
from speechkit.plugins import Registry, using

STEM = Block(channels=8, kernel=3)
ROW = Block(channels=8, kernel=5, repeat=2, residual=True)


def net(*rows: Block, **fields: Any) -> MatchboxNet:
    return MatchboxNet(
        labels=("a", "b"), frontend="mfcc:n_mels=16,n_mfcc=12", blocks=(STEM, *rows), **fields
    )


def layers(model: Model, index: int) -> Serial:
    block = model.encoder.get_submodule(str(index))
    assert isinstance(block, Serial)
    return block


def activations(module: nn.Module) -> list[str]:
    wrapped = [m.module for m in module.modules() if isinstance(m, FrameWise)]
    return [type(m).__name__ for m in wrapped]


def test_a_row_has_its_own_parts_and_the_others_the_nets() -> None:
    own = replace(ROW, activation="silu", norm="none", merge="add", mixer="depthwise")
    model = sk.build(net(ROW, own))
    assert activations(layers(model, 0)) == ["ReLU", "ReLU"]
    assert activations(layers(model, 1)) == ["Bias", "SiLU", "Bias", "Bias", "SiLU"]
    plain = sk.build(net(ROW, ROW))
    assert list(layers(model, 0).state_dict()) == list(layers(plain, 0).state_dict())


def test_a_row_has_its_own_dropout() -> None:
    model = sk.build(net(ROW, replace(ROW, dropout=0.4), replace(ROW, dropout=0.0), dropout=0.2))
    rates = [
        [m.p for m in layers(model, index).modules() if isinstance(m, nn.Dropout)]
        for index in range(3)
    ]
    assert rates == [[0.2, 0.2], [0.4, 0.4], []]
    assert list(model.state_dict()) == list(sk.build(net(ROW, ROW, ROW)).state_dict())


@pytest.mark.parametrize("part", ["merge", "mixer", "channel"])
def test_a_part_that_a_row_does_not_use_is_looked_up_too(part: str) -> None:
    row = replace(Block(channels=8, kernel=1, separable=False), **{part: "nosuch"})
    with pytest.raises(SpeechkitError, match="named 'nosuch'"):
        sk.build(net(row))


def test_a_row_may_name_a_block_that_has_no_residual() -> None:
    ends = Block(channels=8, kernel=1, separable=False, block="skip")
    model = sk.build(net(ROW, ends))
    assert list(layers(model, 1)._modules) == ["shortcut", "after"]


def test_each_sub_block_may_have_its_own_kernel_and_activation() -> None:
    model = sk.build(net(replace(ROW, kernel=(3, 7), activation=("gelu", "silu"))))
    total = layers(model, 0).get_submodule("sum")
    first, between, second = total.get_submodule("body").children()
    assert first.get_submodule("mixer").kernel == 3
    assert second.get_submodule("mixer").kernel == 7
    assert activations(between) == ["GELU"]
    assert activations(layers(model, 0).get_submodule("after")) == ["SiLU"]
    audio = 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    assert model(audio).scores.shape == (1, 2)


def test_the_shortcut_has_the_channel_layer_of_the_first_sub_block() -> None:
    def wide(c_in: int, c_out: int) -> nn.Module:
        return nn.Conv1d(c_in, c_out, 1)

    with plugin(speechkit_channel_layers=wide):
        model = sk.build(net(replace(ROW, channel=("acme/part", "linear"))))
    convolutions = [n for n, m in layers(model, 0).named_modules() if isinstance(m, nn.Conv1d)]
    assert convolutions == ["sum.body.0.channel.module", "sum.shortcut.channel.module"]


def test_equal_entries_are_as_one() -> None:
    one = sk.build(net(replace(ROW, activation="silu")), seed=3)
    two = sk.build(net(replace(ROW, kernel=(5, 5), activation=("silu", "silu"))), seed=3)
    assert str(one.encoder) == str(two.encoder)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


def test_only_the_parts_that_a_row_names_are_stored() -> None:
    config = net(ROW, replace(ROW, block="skip", kernel=(3, 5), activation=("relu", "silu")))
    stored = json.loads(json.dumps(to_dict(config)))
    assert list(stored["blocks"][1])[-1] == "copies"
    assert stored["blocks"][2]["block"] == {"name": "skip", "params": {}}
    assert stored["blocks"][2]["kernel"] == [3, 5]
    assert "norm" not in stored["blocks"][2]
    assert from_dict(AnyNet, stored) == config


def test_a_part_of_a_row_can_be_set_and_unset() -> None:
    config = override(net(ROW), ["blocks.1.activation=silu", "blocks.1.kernel=[3,5]"])
    assert config.blocks[1].activation == Spec("silu")
    assert config.blocks[1].kernels == (3, 5)
    assert override(config, ["blocks.1.activation=null", "blocks.1.kernel=5"]) == net(ROW)


def test_a_model_names_the_plugins_of_its_rows(tmp_path) -> None:
    with plugin(speechkit_activations=lambda channels: nn.ReLU()):
        model = sk.build(net(replace(ROW, activation=("relu", "acme/part"))))
        assert ("activation", Spec("acme/part")) in model.config.components()
        sk.save(model, tmp_path / "model")
        sk.load(tmp_path / "model")
    with pytest.raises(PluginError, match="was made with plugin 'acme'"):
        sk.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel": (3, 5, 7)}, "block kernel has 3 entries for repeat=2; give one entry for all"),
        ({"activation": ("relu",)}, "block activation has 1 entries for repeat=2"),
        ({"norm": ("batch", "none")}, "cannot read component"),
        ({"dropout": 1.5}, "block dropout=1.5: give a number from 0 to 1"),
        ({"kernel": (3, 0)}, "block kernel=0: give a number from 1"),
        ({"mixer": "depthwise:wait_ms=1e14"}, "block mixer depthwise: wait_ms"),
    ],
)
def test_what_no_row_can_have_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(SpeechkitError, match=message):
        replace(ROW, **wrong)


def test_what_no_net_can_be_built_of_is_refused() -> None:
    with pytest.raises(ConfigError, match="first row has block=skip: it is the stem; set stem"):
        sk.build(MatchboxNet(labels=("a", "b"), blocks=(replace(STEM, block="skip"), ROW)))
    fast = Block(channels=8, kernel=3, stride=2, block="skip")
    with pytest.raises(ConfigError, match="block skip has stride 1 in a row of stride 2"):
        sk.build(net(fast))


def test_a_block_that_makes_its_own_sub_blocks_takes_one_of_each() -> None:
    def own(c_in: int, c_out: int, make_body: BodyMaker, index: int, depth: int) -> StreamLayer:
        return Serial(make_body.layer(c_in, c_out), make_body.activation(c_out))

    with plugin(speechkit_blocks=own):
        row = replace(ROW, block="acme/part", activation="silu")
        sk.build(net(row))
        for given in ({"kernel": (3, 5)}, {"activation": ("relu", "silu")}):
            with pytest.raises(ConfigError, match="block acme/part needs one kernel, channel"):
                sk.build(net(replace(row, **given)))


def test_a_skipped_block_is_its_shortcut() -> None:
    model, skipped = sk.build(net(ROW)).eval(), sk.build(net(replace(ROW, block="skip"))).eval()
    total = layers(model, 0).get_submodule("sum")
    shortcut = total.get_submodule("shortcut")
    layers(skipped, 0).get_submodule("shortcut").load_state_dict(shortcut.state_dict())
    c = Chunk.of(torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0)).transpose(1, 2))
    assert torch.equal(layers(skipped, 0)(c).x, shortcut(c).x.relu())


def plugin(**hooks: Callable[..., Any]) -> Any:
    """A registry with a plugin `acme` whose hooks offer their factory as `part`."""
    registry = Registry({"SPEECHKIT_PLUGINS": ""})
    functions = {hook: offering(factory) for hook, factory in hooks.items()}
    registry.add(SimpleNamespace(__name__="acme", **functions), "acme", "0.1.0")
    return using(registry)


def offering(factory: Callable[..., Any]) -> Any:
    return sk.hookimpl(lambda: [sk.Component(name="part", factory=factory, summary="A part")])
