"""Steps of a causal QuartzNet: the cache-in, cache-out form in onnxruntime, and ours.

Only ours starts from sound, because NativeLayer does; the front end is measured apart too.
"""

from functools import lru_cache, partial

import torch
from torch import Tensor

import speechkit as sk
from benchmarks import ort
from benchmarks.cache_net import CacheNet
from benchmarks.inputs import SAMPLE_RATE, speech
from benchmarks.plain import plain_net
from benchmarks.registry import Absent, Benchmark, Contestant, Options, Run
from benchmarks.settled import settled
from speechkit.models import Model
from speechkit.nn import Chunk, StreamLayer
from speechkit.streaming.native import NativeLayer, UnplannedError

SOUND_S = 1.92
STEPS_MS = (20, 80, 160)
HOP = 160
"""Samples of one frame of features."""


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark(
            f"streaming/{name}-{step_ms}",
            f"{what}, one step of {step_ms} ms, 1 session",
            tuple(
                Contestant(label, partial(build, step_ms), units=round(1000 * SOUND_S / step_ms))
                for label, build in contestants.items()
            ),
            audio_s=step_ms / 1000,
        )
        for name, (what, contestants) in SUBJECTS.items()
        for step_ms in STEPS_MS
    ]


@lru_cache(maxsize=1)
def model_of() -> Model:
    config = sk.QuartzNet(size="5x5", lookahead=0, frontend="log_mel:normalize=none")
    model = sk.build(config, seed=0).eval()
    return settled(model, model.features(sound()).x)


def sound() -> Tensor:
    return torch.from_numpy(speech(SOUND_S))[None]


@torch.inference_mode()
def features() -> Tensor:
    """What the front end makes of the sound, `[T, F]`."""
    return model_of().features(sound()).x[0].T.contiguous()


def onnxruntime(step_ms: int) -> Run:
    frames = step_ms * SAMPLE_RATE // 1000 // HOP
    net = CacheNet(plain_net(model_of()), frames)
    parts = features().split(frames)
    session = ort.session(ort.exported(net, (parts[0], *net.caches())))
    # values of its own, so that nothing is copied between steps
    value = ort.values()
    fed = [value(part.numpy()) for part in parts]
    zeros = [value(cache.numpy()) for cache in net.caches()]
    first, *names = [given.name for given in session.get_inputs()]

    def run() -> Tensor:
        scores, caches = [], zeros
        for x in fed:
            given = {first: x, **dict(zip(names, caches, strict=True))}
            y, *caches = session.run_with_ort_values(None, given)
            scores.append(torch.from_numpy(y.numpy()))
        return torch.cat(scores)

    return run


def in_torch(step_ms: int) -> Run:
    return stepping(model_of().stream_layer(), step_ms)


def native(step_ms: int) -> Run:
    return stepping(natively(model_of().stream_layer(), step_ms), step_ms)


def frontend_in_torch(step_ms: int) -> Run:
    return stepping(model_of().frontend, step_ms)


def native_frontend(step_ms: int) -> Run:
    return stepping(natively(model_of().frontend, step_ms), step_ms)


def natively(layer: StreamLayer, step_ms: int) -> NativeLayer:
    try:
        return NativeLayer(layer, step_ms * SAMPLE_RATE // 1000)
    except UnplannedError as error:
        raise Absent(str(error)) from error


def stepping(layer: StreamLayer, step_ms: int) -> Run:
    """A session from its first sample on; its output is `[T, n]`."""
    parts = sound()[:, None].split(step_ms * SAMPLE_RATE // 1000, dim=2)
    chunks = [Chunk.of(part.contiguous()) for part in parts]

    @torch.inference_mode()
    def run() -> Tensor:
        scores, state = [], layer.init_state(1, 1)
        for c in chunks:
            y, state = layer.step(c, state)
            scores.append(y.x[0].T)
        return torch.cat(scores)

    return run


SUBJECTS = {
    "quartznet": (
        "causal QuartzNet 5x5",
        {
            "onnxruntime, from features": onnxruntime,
            "torch, from sound": in_torch,
            "speechkit, from sound": native,
        },
    ),
    "front-end": (
        "the front end alone",
        {"torch": frontend_in_torch, "speechkit": native_frontend},
    ),
}
