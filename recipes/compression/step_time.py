"""Compares the CPU time of models, on one thread.

    python recipes/compression/step_time.py MODEL OTHER ...

Prints for each model its parameters, the time of a step of 80 ms in the native engine, and that of
ten seconds of features in the prepared net: medians of rounds in which the models take turns, in
microseconds. × is the share of the first model's time. The front end is left out: it is the same.
"""

import sys
from collections.abc import Callable
from statistics import median
from time import process_time

import torch

import speechkit as sk
from speechkit.models import Model, prepare
from speechkit.nn import Chunk, ClipHead, Serial
from speechkit.streaming.engines.native.layer import NativeLayer

STEP_S, ROUNDS, CALLS = 0.08, 100, 5


def step_of(model: Model) -> Callable[[], object]:
    """One step of a stream of features."""
    head = model.head.running() if isinstance(model.head, ClipHead) else model.head
    features = model.frontend.channels_out(1)
    frames = round(STEP_S * model.sample_rate / model.frontend.stride)
    net = NativeLayer(Serial(model.stem, model.encoder, head), frames, c_in=features)
    state = net.init_state(1, features)
    given = Chunk.of(torch.randn(1, frames, features).transpose(1, 2))
    return lambda: net.step(given, state)


def recording_of(model: Model) -> Callable[[], object]:
    """The scores of ten seconds of features."""
    ready, frames = prepare(model), 10 * model.sample_rate // model.frontend.stride
    features = torch.randn(1, frames, model.frontend.channels_out(1)).transpose(1, 2)
    return lambda: ready.score(Chunk.of(features))


def times_us(runs: list[Callable[[], object]]) -> list[float]:
    """The median of each one's CPU time, in rounds in which they take turns."""
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, own in zip(runs, found, strict=True):
            run()
            start = process_time()
            for _ in range(CALLS):
                run()
            own.append(1e6 * (process_time() - start) / CALLS)
    return [median(own) for own in found]


@torch.inference_mode()
def main(folders: list[str]) -> None:
    torch.set_num_threads(1)
    models = [sk.load(folder) for folder in folders]
    steps = times_us([step_of(model) for model in models])
    recordings = times_us([recording_of(model) for model in models])
    for folder, model, step, recording in zip(folders, models, steps, recordings, strict=True):
        print(
            f"{folder}: {sum(p.numel() for p in model.parameters())} parameters, "
            f"step {step:.0f} us × {step / steps[0]:.2f}, "
            f"10 s {recording:.0f} us × {recording / recordings[0]:.2f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
