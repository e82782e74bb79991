"""Nets of other rows with the weights of a trained one."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.transforms.rows import with_rows


@pytest.fixture
def model() -> sk.Model:
    rows = [sk.Block(channels=8, kernel=3, residual=i > 0) for i in range(4)]
    return sk.build(sk.QuartzNet(labels=("a",), blocks=rows, lookahead=(0, 1, 0, 1)), 1).eval()


def test_the_rows_have_the_weights_of_their_origins(model: sk.Model) -> None:
    rows = model.config.rows()
    made = with_rows(model, [rows[0], rows[3], rows[1]], [0, 3, 1])
    assert made.config.lookahead == (0, 1, 1)
    assert not made.training
    pairs = [(made.stem, model.stem), (made.head, model.head)]
    pairs += [(made.encoder[0], model.encoder[2]), (made.encoder[1], model.encoder[0])]
    for new, old in pairs:
        states = new.state_dict(), old.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())


def test_a_row_without_an_origin_is_new(model: sk.Model) -> None:
    rows = model.config.rows()
    made = with_rows(model, [*rows, rows[3]], [0, 1, 2, 3, None], seed=5)
    fresh: Any = sk.build(made.config, 5).encoder[3]
    for name, value in made.encoder[3].state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])


def test_weights_of_another_shape_are_new_and_other_fields_may_change(model: sk.Model) -> None:
    (_, ahead), *rest = model.config.rows()
    wider = sk.Block(channels=8, kernel=5)
    made = with_rows(model, [(wider, ahead), *rest], range(4), activation="silu")
    assert str(made.config.activation) == "silu"
    assert made.stem.state_dict()["body.0.mixer.weight"].shape[-1] == 5
    old = model.encoder[0].sum.body[0].channel.weight
    assert torch.equal(made.encoder[0].sum.body[0].channel.weight, old)


def test_rows_may_share_an_origin_and_name_its_weights_otherwise(model: sk.Model) -> None:
    stem, first, *_ = model.config.rows()
    skipped = replace(first[0], block="skip"), first[1]

    def old_name(name: str) -> str:
        return f"sum.{name}"

    made = with_rows(model, [stem, skipped, first, first], [0, 1, 1, 1], old_name=old_name)
    old: Any = model.encoder[0]
    for new in (
        made.encoder[0].shortcut,
        made.encoder[1].sum.shortcut,
        made.encoder[2].sum.shortcut,
    ):
        assert torch.equal(new.channel.weight, old.sum.shortcut.channel.weight)
    again = with_rows(made, [stem, skipped], [0, 1], old_name=old_name)
    kept: Any = again.encoder[0]
    assert torch.equal(kept.shortcut.channel.weight, old.sum.shortcut.channel.weight)


def test_device_and_dtype_are_kept(model: sk.Model) -> None:
    rows = model.config.rows()
    made = with_rows(model.double(), [*rows, rows[3]], [0, 1, 2, 3, None])
    assert {x.dtype for x in made.parameters()} == {torch.float64}
    old = model.encoder[2].state_dict()
    assert all(torch.equal(x, old[name]) for name, x in made.encoder[2].state_dict().items())


def test_rows_do_not_move_in_a_stack_that_names_its_blocks_otherwise(
    model: sk.Model, other_stack: str
) -> None:
    net = sk.build(replace(model.config, stack=other_stack), 1).eval()
    rows = net.config.rows()
    made = with_rows(net, rows, range(4), activation="silu")
    old = net.state_dict()
    assert all(torch.equal(x, old[name]) for name, x in made.state_dict().items())
    with pytest.raises(ConfigError, match="takes a net with stack=core/serial, not stack=ours/two"):
        with_rows(net, [rows[0], rows[2]], [0, 2])
