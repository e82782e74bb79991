"""1×1 layers in the engine: float32, and products of signs."""

from functools import partial

import numpy as np
import torch

from benchmarks.registry import Benchmark, Contestant, Options, Output, Run, processor_milliseconds
from speechkit.plans.engine import LoadedPlan, Steps
from speechkit.plans.program import Program, Value
from speechkit.plans.signs import packed_signs

WIDTHS, FRAMES = (32, 64, 128, 256), (1, 10, 100)
LAYERS, STEPS = 8, 10
"""Layers of one plan, as a net has, and steps in a round."""
UNITS = LAYERS * STEPS


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark(
            f"signs/{channels}-{frames}",
            f"a 1×1 layer of {channels} channels in a step of {frames} frames",
            (
                Contestant("float32", partial(layers, channels, frames, binary=False), units=UNITS),
                Contestant("signs", partial(layers, channels, frames, binary=True), units=UNITS),
            ),
            measure=microseconds,
            unit="µs",
        )
        for channels in WIDTHS
        for frames in FRAMES
    ]


def microseconds(run: Run) -> float:
    """The processor time of one round: a round is short, and busy machines interrupt it."""
    return 1000 * processor_milliseconds(run)


def layers(channels: int, frames: int, binary: bool) -> Run:
    """Steps of layers that all read the same signs; the output is that of the last layer."""
    chance = np.random.default_rng(0)
    program, x = Program(), Value(0, 1, channels)
    for _ in range(LAYERS):
        weight = chance.choice([-1.0, 1.0], size=(channels, channels))
        factor, zeros = np.full(channels, channels**-0.5), np.zeros(channels)
        if binary:
            packed = packed_signs(weight)
            program.emit("binary", x, weights=packed, bias=zeros, numbers=factor)
        else:
            program.emit("separable", x, weights=weight, bias=np.stack([factor, zeros]))
    plan = LoadedPlan(program.table, program.weights.array, 1, channels, frames)
    step = Steps(plan, plan.new_states(1), 1, 1)
    signs = chance.choice(np.array([-1, 1], np.float32), size=(1, frames, channels))

    def run() -> Output:
        for _ in range(STEPS):
            step(signs)
        return torch.from_numpy(step.y)

    return run
