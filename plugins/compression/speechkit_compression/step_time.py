"""How long models compute, each against the others."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import process_time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import speechkit as sk
from speechkit.models import Model, prepare
from speechkit.models.profile import why_not_streamable
from speechkit.streaming import Stream, WindowedStream

SECONDS = 2.0
"""The sound that is computed in each round."""
ROUNDS = 31


def step_times_s(models: Sequence[Model], step_s: float = 0.1, rounds: int = ROUNDS) -> list[float]:
    """The seconds that each model takes for `step_s` of one stream, with its front end.

    In each round all models in turn get two seconds of noise; the time is the median of `rounds`,
    in processor time, which other programs hardly change. A model that cannot stream is timed on
    the two seconds as a whole.
    """
    steps = round(SECONDS / step_s)
    runs = [_run(model, steps) for model in models]
    times_s: list[list[float]] = [[] for _ in runs]
    # the first round warms up
    for round_ in range(rounds + 1):
        for kept, run in zip(times_s, runs, strict=True):
            start_s = process_time()
            run()
            if round_:
                kept.append(process_time() - start_s)
    return [median(kept) / steps for kept in times_s]


def _run(model: Model, steps: int) -> Callable[[], object]:
    """A function that computes the next two seconds, in so many steps."""
    count = round(SECONDS * model.sample_rate)
    sound = np.random.default_rng(0).normal(0, 0.05, count).astype(np.float32)
    if why_not_streamable(model):
        return partial(_whole, prepare(model), torch.from_numpy(sound)[None])
    return partial(_streamed, sk.stream(model), np.array_split(sound, steps))


@torch.inference_mode()
def _whole(model: Model, audio: Tensor) -> None:
    model(audio)


def _streamed(stream: Stream | WindowedStream, chunks: Sequence[NDArray[np.float32]]) -> None:
    for chunk in chunks:
        stream.feed(chunk)
