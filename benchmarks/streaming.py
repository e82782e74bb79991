"""Steps of a causal QuartzNet from features: our sessions, and onnxruntime with caches as inputs.

The front end is measured separately.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

import speechkit as sk
from benchmarks import ort, ov
from benchmarks.cache_net import CacheNet
from benchmarks.inputs import SAMPLE_RATE, speech
from benchmarks.plain import plain_net
from benchmarks.registry import Absent, Benchmark, Contestant, Options, Run
from benchmarks.settled import settled
from speechkit.models import Model
from speechkit.nn import Chunk, Serial, StreamLayer
from speechkit.ops.separable_conv import Precision
from speechkit.plans.program import LoweringError
from speechkit.streaming.engines.native.layer import NativeLayer

SOUND_S = 1.92
STEPS_MS = (20, 80, 160)
EXACT = 1e-4
"""The tolerance of scores, relative to the largest."""
HOP = 160
"""Samples of one frame of features."""


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark(
            f"streaming/{name}-{step_ms}",
            f"{what}, one step of {step_ms} ms, 1 session",
            tuple(
                Contestant(label, partial(build, step_ms), off, units=steps_of(step_ms))
                for label, (build, off) in contestants.items()
            ),
            audio_s=step_ms / 1000,
        )
        for name, (what, contestants) in SUBJECTS.items()
        for step_ms in STEPS_MS
    ]


def steps_of(step_ms: int) -> int:
    """The number of steps of a round."""
    return round(1000 * SOUND_S / step_ms)


@lru_cache(maxsize=1)
def model_of() -> Model:
    config = sk.QuartzNet(size="5x5", lookahead=0, frontend="log_mel:normalize=none")
    model = sk.build(config, seed=0).eval()
    return settled(model, model.features(sound()).x)


def sound() -> Tensor:
    return torch.from_numpy(speech(SOUND_S))[None]


@torch.inference_mode()
def features() -> Tensor:
    """The features of the audio, `[T, F]`."""
    return model_of().features(sound()).x[0].T.contiguous()


def with_caches(step_ms: int) -> tuple[Path, tuple[Tensor, ...], list[Tensor]]:
    """The file of the net with caches as inputs, the parts of the features, and zero caches."""
    frames = step_ms * SAMPLE_RATE // 1000 // HOP
    net = CacheNet(plain_net(model_of()), frames)
    parts, zeros = features().split(frames), list(net.caches())
    return ort.exported(net, (parts[0], *zeros)), parts, zeros


def onnxruntime(step_ms: int) -> Run:
    path, parts, caches = with_caches(step_ms)
    session = ort.session(path)
    # separate values, so that nothing is copied between steps
    value = ort.values()
    fed = [value(part.numpy()) for part in parts]
    zeros = [value(cache.numpy()) for cache in caches]
    first, *names = [given.name for given in session.get_inputs()]

    def run() -> Tensor:
        scores, caches = [], zeros
        for x in fed:
            given = {first: x, **dict(zip(names, caches, strict=True))}
            y, *caches = session.run_with_ort_values(None, given)
            scores.append(torch.from_numpy(y.numpy()))
        return torch.cat(scores)

    return run


def openvino(step_ms: int, precision: Precision = "float32") -> Run:
    path, parts, caches = with_caches(step_ms)
    request = ov.request(path, precision)
    zeros = [cache.numpy() for cache in caches]

    def run() -> Tensor:
        scores, given = [], zeros
        for part in parts:
            y, *given = request.infer([part.numpy(), *given]).values()
            scores.append(torch.from_numpy(y))
        return torch.cat(scores)

    return run


def after_frontend() -> StreamLayer:
    model = model_of()
    return Serial(model.stem, model.encoder, model.head)


def in_torch(step_ms: int) -> Run:
    return stepping(after_frontend(), features(), step_ms * SAMPLE_RATE // 1000 // HOP)


def native(step_ms: int, precision: Precision = "float32") -> Run:
    frames = step_ms * SAMPLE_RATE // 1000 // HOP
    return stepping_natively(after_frontend(), features(), frames, precision)


def frontend_in_torch(step_ms: int) -> Run:
    return stepping(model_of().frontend, sound().T, step_ms * SAMPLE_RATE // 1000)


def native_frontend(step_ms: int) -> Run:
    return stepping_natively(model_of().frontend, sound().T, step_ms * SAMPLE_RATE // 1000)


def stepping(layer: StreamLayer, rows: Tensor, step: int) -> Run:
    """A session over rows `[T, C]` from its first one on; its output is `[T', n]`."""
    chunks = [Chunk.of(part[None].transpose(1, 2)) for part in rows.split(step)]

    @torch.inference_mode()
    def run() -> Tensor:
        scores, state = [], layer.init_state(1, rows.shape[1])
        for c in chunks:
            y, state = layer.step(c, state)
            scores.append(y.x[0].T)
        return torch.cat(scores)

    return run


def stepping_natively(
    layer: StreamLayer, rows: Tensor, step: int, precision: Precision = "float32"
) -> Run:
    """`stepping` in C++; raises Absent if the layer has no native form."""
    try:
        native = NativeLayer(layer, step, precision, rows.shape[1])
    except LoweringError as error:
        raise Absent(str(error)) from error
    sessions = native.new_sessions(1)
    steps = sessions.steps(1, 1)
    parts = [part[None].numpy() for part in rows.split(step)]

    def run() -> Tensor:
        sessions.start(0)
        scores = []
        for part in parts:
            steps(part)
            scores.append(torch.from_numpy(steps.y[0, 0].copy()))
        return torch.cat(scores)

    return run


SUBJECTS: dict[str, tuple[str, dict[str, tuple[Callable[[int], Run], float]]]] = {
    "quartznet": (
        "causal QuartzNet 5x5",
        {
            "onnxruntime": (onnxruntime, EXACT),
            "OpenVINO": (openvino, EXACT),
            "OpenVINO bfloat16": (partial(openvino, precision="bfloat16"), 0.1),
            "torch": (in_torch, EXACT),
            "speechkit": (native, EXACT),
            "speechkit bfloat16": (partial(native, precision="bfloat16"), 0.1),
            "speechkit int8": (partial(native, precision="int8"), 0.3),
        },
    ),
    "front-end": (
        "the front end alone",
        {"torch": (frontend_in_torch, EXACT), "speechkit": (native_frontend, EXACT)},
    ),
}
