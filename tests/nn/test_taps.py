"""Taps: which calls are recorded, and that copies and evaluation are not."""

import copy

import torch

from speechkit.nn import Chunk, Pointwise, Serial, Taps


def net() -> Serial:
    return Serial(a=Pointwise(3, 4), b=Pointwise(4, 2))


def frames() -> Chunk:
    return Chunk.of(torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)))


def test_calls_are_recorded_in_order_with_what_was_read_and_returned() -> None:
    layer, c = net(), frames()
    with Taps(dict(layer.named_children())) as taps:
        y = layer(c)
        first, second = taps.take()
        assert taps.take() == []
    assert (first.name, second.name) == ("a", "b")
    assert first.layer is layer[0]
    assert first.args[0] is c
    assert second.args[0] is first.output
    assert second.output is y
    layer(c)
    assert taps.take() == []


def test_evaluation_is_left_out_where_training_alone_is_wanted() -> None:
    layer = net()
    taps = Taps({"b": layer[1]}, training_only=True)
    layer.eval()(frames())
    assert taps.take() == []
    layer.train()(frames())
    assert len(taps.take()) == 1


def test_a_copy_is_not_recorded() -> None:
    layer = net()
    with Taps(dict(layer.named_children())) as taps:
        copy.deepcopy(layer)(frames())
    assert taps.take() == []
