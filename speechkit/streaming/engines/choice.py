"""The net of a session over audio at any rate, and the engine that computes it."""

import math

from speechkit.errors import StreamError
from speechkit.frontend.resample import Resample
from speechkit.models import Model
from speechkit.models.profile import why_not_streamable
from speechkit.nn import Serial, StreamLayer
from speechkit.ops.separable_conv import Precision
from speechkit.streaming.engines.cuda.engine import CudaEngine
from speechkit.streaming.engines.native.engine import NativeEngine
from speechkit.streaming.engines.native.layer import NativeLayer, native_layer
from speechkit.streaming.engines.torch import TorchEngine
from speechkit.streaming.waiting import Waiting
from speechkit.tasks import task_of

LONGEST_PERIOD = 2000
"""The most input samples that make a whole number of samples at the model's rate: 441 for 44.1 to
16 kHz."""


def engine_of(
    model: Model,
    layer: Serial,
    waiting: Waiting,
    sample_rate: int,
    precision: Precision = "float32",
) -> NativeEngine | TorchEngine:
    """The engine of sessions that go along with their samples: native, or else torch."""
    key = sample_rate, waiting.block_samples, precision
    native = native_layer(model, layer, waiting.block_samples, key, precision)
    if isinstance(native, NativeLayer):
        return NativeEngine(native, waiting)
    return TorchEngine(model, layer, waiting, native)


def pool_engine(
    model: Model,
    layer: Serial,
    waiting: Waiting,
    sample_rate: int,
    precision: Precision = "float32",
    impl: str | None = None,
) -> NativeEngine | TorchEngine | CudaEngine:
    """The engine of sessions on the model's device; `impl` names that of convolutions."""
    if next(model.parameters()).device.type != "cuda" and impl is None:
        engine = engine_of(model, layer, waiting, sample_rate, precision)
        if isinstance(engine, NativeEngine) or precision == "float32":
            return engine
    return CudaEngine(model, layer, waiting, precision, impl)


def suggested_window_s(model: Model) -> float:
    """A suitable window for a model that cannot stream."""
    return task_of(model).window_s or 8.0


def block_strides(model: Model, layer: StreamLayer, sample_rate: int) -> int:
    """The number of strides per block for a net over audio at `sample_rate`."""
    return max(1, round(task_of(model).block_s * sample_rate / layer.stride))


def session_layer(model: Model, sample_rate: int) -> Serial:
    """The net over audio at `sample_rate`; raises StreamError if a part of it cannot stream."""
    if not isinstance(sample_rate, int):
        raise StreamError(f"sample_rate={sample_rate!r:.40} is no whole number; give one in hertz")
    if reason := why_not_streamable(model):
        window_s = suggested_window_s(model)
        raise StreamError(f"{reason}; or give window_s={window_s:g} for an approximate stream")
    net = model.stream_layer(task_of(model).window_s)
    if sample_rate == model.sample_rate:
        return net
    period = sample_rate // math.gcd(sample_rate, model.sample_rate)
    if sample_rate < 1 or period > LONGEST_PERIOD:
        raise StreamError(
            f"sample_rate={sample_rate} does not fit {model.sample_rate} Hz; resample the sound to "
            f"{model.sample_rate} Hz first"
        )
    return Serial(resample=Resample(sample_rate, model.sample_rate), net=net)
