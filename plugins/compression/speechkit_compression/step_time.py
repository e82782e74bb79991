"""How long a model computes, against another one."""

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


def time_ratio(model: Model, other: Model, rounds: int = ROUNDS) -> float:
    """The time that `model` needs for two seconds of a stream, divided by that of `other`.

    Both get noise in chunks of 100 ms, in turns; each time is the median of `rounds`, in processor
    time, which other programs hardly change. A model that cannot stream is timed on the whole of
    it. The front end is included.
    """
    runs = [_run(each) for each in (model, other)]
    times: list[list[float]] = [[], []]
    for round_ in range(rounds + 1):
        for run, kept in zip(runs, times, strict=True):
            start_s = process_time()
            run()
            # the first round warms up
            if round_:
                kept.append(process_time() - start_s)
    return median(times[0]) / median(times[1])


def _run(model: Model) -> Callable[[], object]:
    """A function that computes the next two seconds."""
    count = round(SECONDS * model.sample_rate)
    sound = np.random.default_rng(0).normal(0, 0.05, count).astype(np.float32)
    if why_not_streamable(model):
        return partial(_whole, prepare(model), torch.from_numpy(sound)[None])
    chunks = np.array_split(sound, round(SECONDS * 10))
    return partial(_streamed, sk.stream(model), chunks)


@torch.inference_mode()
def _whole(model: Model, audio: Tensor) -> None:
    model(audio)


def _streamed(stream: Stream | WindowedStream, chunks: Sequence[NDArray[np.float32]]) -> None:
    for chunk in chunks:
        stream.feed(chunk)
