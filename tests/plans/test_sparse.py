"""1×1 layers that leave out zeros give exactly the numbers of the dense product."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import speechkit as sk
from speechkit.models import Model, Net
from speechkit.native.libraries import load
from speechkit.nn import BatchNorm, Chunk, Pointwise
from speechkit.plans.engine import LANES, SOURCE, LoadedPlan, Steps
from speechkit.plans.program import Program, Value
from speechkit.tasks import task_of
from speechkit.tasks.plans import plan_of

pytestmark = pytest.mark.skipif(isinstance(load(SOURCE), str), reason="there is no C++ compiler")
Array = NDArray[np.float32]
RELU = 1
SHAPES = [(1, 2), (3, 5), (16, 32), (17, 33), (64, 64), (40, 150), (129, 31)]
"""Outputs and inputs."""


def product(x: Array, w: Array, bias: Array, rows: int = 1, blocks: int = 1) -> Array:
    """relu(W x + b) for the rows of x `[N, inputs]`, `rows` in a block and `blocks` at a time."""
    program = Program()
    outputs, inputs = w.shape
    table = {"weights": w, "bias": np.stack([np.ones(outputs), bias])}
    program.emit("separable", Value(0, 1, inputs), channels=outputs, activation=RELU, **table)
    plan = LoadedPlan(program.table, program.weights.array, 1, inputs, rows)
    steps, y = Steps(plan, plan.new_states(1), 1, blocks), []
    for part in np.split(x, len(x) // (rows * blocks)):
        steps(part[None])
        y.append(steps.y.reshape(-1, outputs).copy())
    return np.concatenate(y)


def dense_product(x: Array, w: Array, bias: Array) -> Array:
    """The same with so many more outputs that most tiles are filled, for all rows together."""
    outputs, inputs = w.shape
    first = -(-outputs // LANES) * LANES
    wide = np.ones((3 * first, inputs), np.float32)
    wide[:outputs], wide[outputs:first] = w, 0
    return product(x, wide, np.resize(bias, len(wide)), len(x))[:, :outputs]


def tiled(outputs: int, inputs: int, zero: float, seed: int = 0) -> Array:
    """Random weights, of which a part of the tiles of LANES outputs × 1 input is zero."""
    chance = np.random.default_rng(seed)
    w = chance.normal(size=(outputs, inputs))
    groups = -(-outputs // LANES)
    kept = chance.permutation(np.arange(groups * inputs) >= round(zero * groups * inputs))
    kept = np.repeat(kept.reshape(groups, inputs), LANES, axis=0)[:outputs]
    return (w * kept).astype(np.float32)


def normal(*shape: int) -> Array:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("zero", [0.4, 0.7, 0.9, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiles_give_exactly_the_dense_product(shape: tuple[int, int], zero: float) -> None:
    w, bias, x = tiled(*shape, zero), normal(shape[0]), normal(12, shape[1])
    expected = dense_product(x, w, bias)
    np.testing.assert_allclose(expected, np.maximum(x @ w.T + bias, 0), rtol=1e-4, atol=1e-5)
    for rows, blocks in ((1, 1), (2, 1), (3, 1), (4, 1), (6, 1), (12, 1), (1, 12), (4, 3)):
        assert np.array_equal(product(x, w, bias, rows, blocks), expected)


@given(st.integers(1, 70), st.integers(2, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_pattern_of_zeros_gives_exactly_the_dense_product(
    outputs: int, inputs: int, zero: float, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    w = tiled(outputs, inputs, zero, seed) * (chance.random((outputs, 1)) < 0.8)
    w, bias, x = w.astype(np.float32), normal(outputs), normal(3, inputs)
    x[chance.random(x.shape) < zero] = 0
    expected = dense_product(x, w, bias)
    for rows in (1, 3):
        assert np.array_equal(product(x, w, bias, rows), expected)


@pytest.mark.parametrize("inputs", [2, 31, 64, 1024, 9000])
@pytest.mark.parametrize("zero", [0.3, 0.4, 0.8, 1])
def test_zero_inputs_give_exactly_the_dense_product(inputs: int, zero: float) -> None:
    w, bias, x = normal(70, inputs), normal(70), normal(6, inputs)
    for row, order in zip(x, np.random.default_rng(2).random(x.shape), strict=True):
        row[np.argsort(order)[: round(zero * inputs)]] = 0
    assert np.array_equal(product(x, w, bias), product(x, w, bias, 6))


def test_zero_tiles_are_left_out_where_at_most_six_tenths_are_filled() -> None:
    w, bias = tiled(4 * LANES, 8, 0), normal(4 * LANES)
    x = np.array([[0, 0, 0, 0, 0, np.inf, np.inf, np.inf]], np.float32)
    w[:, 5:] = 0
    # the dense product multiplies infinity by zero
    assert np.isnan(product(x, w, bias)).all()
    w[:, 4] = 0
    assert np.array_equal(product(x, w, bias), np.maximum(bias, 0)[None])


def pruned(net: Net, zero: float) -> Model:
    """A net with random statistics whose 1×1 layers have zero tiles."""
    model, generator = sk.build(net).eval(), torch.Generator().manual_seed(0)
    for seed, layer in enumerate(model.modules()):
        if isinstance(layer, Pointwise):
            outputs, inputs = layer.weight.shape[:2]
            mask = torch.from_numpy(tiled(outputs, inputs, zero, seed) != 0)
            layer.weight.data *= mask.view_as(layer.weight)
        elif isinstance(layer, BatchNorm):
            layer.bias.data.normal_(generator=generator)
    return model


@torch.inference_mode()
@pytest.mark.parametrize("zero", [0.7, 1])
def test_a_pruned_net_streams_as_it_reads_a_whole_recording(net: Net, zero: float) -> None:
    model = pruned(net, zero)
    plan, layer, strides = plan_of(model), model.stream_layer(task_of(model).window_s), 24
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (1, strides * plan.about.stride))
    x = x.astype(np.float32)
    expected = layer(Chunk.of(torch.from_numpy(x)[None])).x[0].T.numpy()
    for each in (1, 2, strides):
        loaded, scores = plan.laid_out(each), []
        steps = Steps(loaded, loaded.new_states(1), 1, 1)
        for part in np.split(x, strides // each, axis=1):
            steps(part)
            scores.append(steps.y[0, 0].copy())
        found, late = np.concatenate(scores), layer.delay
        np.testing.assert_allclose(found[late:], expected[: len(found) - late], atol=1e-5)
