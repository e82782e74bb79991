"""1×1 layers with zeros in the native engine: pruned weights, and inputs that a ReLU made zero.

Layers alone, which all read the same rows, and steps of whole nets that were pruned. A tile is 16
outputs × 1 input of a layer.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache, partial
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import speechkit as sk
from benchmarks.inputs import SAMPLE_RATE, speech
from benchmarks.registry import Benchmark, Contestant, Options, Run
from benchmarks.settled import settled
from speechkit.models import Model
from speechkit.nn import BatchNorm, Chunk, DenseConv, Pointwise
from speechkit.plans.engine import LANES, LoadedPlan, Steps
from speechkit.plans.program import FIELDS, Program, Value
from speechkit.tasks import task_of
from speechkit.tasks.plans import plan_of

WIDTHS = 32, 64, 128, 256, 512
ROWS = 1, 2, 8, 16
"""The frames of a step."""
PARTS = 0.5, 0.6, 0.8, 0.9
"""The parts of the tiles, or of the inputs, that are zero."""
WEIGHTS = 1 << 18
"""The weights of the layers of a round together: 1 MiB, as in a small net."""
CALLS = 20
SOUND_S = 1.92
PRUNED = 0.6, 0.8
EXACT = 1e-4
"""The tolerance of results, relative to the largest."""


def benchmarks(options: Options) -> list[Benchmark]:
    return [*layers(), *nets()]


def layers() -> Iterator[Benchmark]:
    """A benchmark of layers for each width and number of rows."""
    for width in WIDTHS:
        for rows in ROWS:
            zeros = {"dense": (0.0, 0.0)}
            zeros |= {f"{part:.0%} zero tiles": (part, 0.0) for part in PARTS}
            # the engine looks for zero inputs where a step has one row
            if rows == 1:
                zeros |= {f"{part:.0%} zero inputs": (0.0, part) for part in PARTS}
            contestants = (
                Contestant(
                    name,
                    partial(stepping_layers, width, rows, *parts),
                    EXACT,
                    partial(last_layer, width, rows, *parts),
                    CALLS * (WEIGHTS // width**2),
                )
                for name, parts in zeros.items()
            )
            work = f"one 1×1 layer, {width} → {width} channels, {rows} frames"
            yield Benchmark(f"sparse/{width}-{rows}", work, tuple(contestants))


def drawn(
    width: int, rows: int, zero_tiles: float, zero_inputs: float
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """The rows `[1, rows, width]`, and the weights of each layer `[width, width]`."""
    chance = np.random.default_rng(0)
    x = chance.normal(size=(1, rows, width)) * chance.permuted(
        np.broadcast_to(np.arange(width) >= zero_inputs * width, (1, rows, width)), axis=2
    )
    weights = []
    for _ in range(WEIGHTS // width**2):
        tiles = chance.permutation(np.arange(width**2 // LANES) >= zero_tiles * width**2 / LANES)
        kept = np.repeat(tiles.reshape(width // LANES, width), LANES, axis=0)
        w = chance.normal(size=(width, width)) * kept
        weights.append(w.astype(np.float32))
    return x.astype(np.float32), weights


def stepping_layers(width: int, rows: int, zero_tiles: float, zero_inputs: float) -> Run:
    """Steps of all layers, and the results of the last one."""
    x, weights = drawn(width, rows, zero_tiles, zero_inputs)
    program, bias = Program(), np.stack([np.ones(width), np.zeros(width)])
    for w in weights:
        program.emit("separable", Value(0, 1, width), weights=w, bias=bias)
    plan = LoadedPlan(program.table, program.weights.array, 1, width, rows)
    steps = Steps(plan, plan.new_states(1), 1, 1)

    def run() -> Tensor:
        for _ in range(CALLS):
            steps(x)
        return torch.from_numpy(steps.y[0, 0].copy())

    return run


def last_layer(width: int, rows: int, zero_tiles: float, zero_inputs: float) -> Tensor:
    """The results of the last layer by numpy."""
    x, weights = drawn(width, rows, zero_tiles, zero_inputs)
    return torch.from_numpy(x[0] @ weights[-1].T)


def nets() -> Iterator[Benchmark]:
    """A benchmark for each net and step."""
    for name, (what, _, steps_ms) in NETS.items():
        for step_ms in steps_ms:
            count = round(1000 * SOUND_S) // step_ms
            contestants = [
                Contestant(
                    f"{zero:.0%} zero tiles" if zero else "dense",
                    partial(stepping_net, name, zero, step_ms),
                    EXACT,
                    partial(whole, name, zero),
                    count,
                )
                for zero in (0.0, *PRUNED)
            ]
            # a net without ReLU has no zero inputs, and costs the same otherwise
            linear = partial(stepping_net, name, 0.0, step_ms, linear=True)
            contestants.append(Contestant("dense, no ReLU", linear, inf, units=count))
            yield Benchmark(
                f"sparse/{name}-{step_ms}",
                f"one step of {step_ms} ms of {what}, 1 session",
                tuple(contestants),
                audio_s=step_ms / 1000,
            )


def matchboxnet() -> Model:
    config = sk.MatchboxNet(
        size="3x2x64", labels=tuple("abcde"), lookahead=0, frontend="log_mel:normalize=none"
    )
    model = sk.build(config, seed=0)
    settled(model, model.features(sound()).x)
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            layer.bias.data.zero_()
    return model


def sound() -> Tensor:
    return torch.from_numpy(speech(SOUND_S))[None]


NETS: dict[str, tuple[str, Callable[[], Model], tuple[int, ...]]] = {
    "matchboxnet": ("an untrained causal MatchboxNet 3x2x64", matchboxnet, (10, 40)),
    "an4": ("the bundled QuartzNet `an4`", partial(sk.load, "an4"), (20, 80)),
}
"""The nets, and their steps in ms, of one and of four frames."""


@lru_cache(maxsize=len(PRUNED) + 1)
def pruned(name: str, zero: float) -> Model:
    """A net without the part of each 1×1 layer's tiles that has the least magnitude."""
    _, build, _ = NETS[name]
    model = deepcopy(build()).eval()
    for layer in model.modules():
        if isinstance(layer, Pointwise | DenseConv):
            w = layer.weight.data.flatten(1)
            tiles = nn.functional.pad(w, (0, 0, 0, -len(w) % LANES)).unflatten(0, (-1, LANES))
            size = tiles.abs().sum(1)
            kept = size >= size.quantile(zero)
            w *= kept.repeat_interleave(LANES, 0)[: len(w)]
    return model


def stepping_net(name: str, zero: float, step_ms: int, linear: bool = False) -> Run:
    """A session over the sound from its first sample on; its scores."""
    plan, block = plan_of(pruned(name, zero)), step_ms * SAMPLE_RATE // 1000
    table = plan.program.copy()
    if linear:
        table[:, FIELDS.index("activation")] = 0
    stride = plan.about.stride
    loaded = LoadedPlan(table, plan.weights, stride, 1, block // stride)
    states = loaded.new_states(1)
    steps, parts = Steps(loaded, states, 1, 1), sound().numpy().reshape(-1, 1, block)

    def run() -> Tensor:
        loaded.start(states[0])
        scores = []
        for part in parts:
            steps(part)
            scores.append(torch.from_numpy(steps.y[0, 0].copy()))
        return torch.cat(scores)[plan.about.delay :]

    return run


@torch.inference_mode()
def whole(name: str, zero: float) -> Tensor:
    """The same scores from the whole recording, in torch."""
    model = pruned(name, zero)
    layer = model.stream_layer(task_of(model).window_s)
    scores: Tensor = layer(Chunk.of(sound()[None])).x[0].T
    return scores[: len(scores) - layer.delay]
