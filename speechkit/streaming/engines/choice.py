"""The net of sessions of a model in torch, and the engine that computes it."""

from speechkit.component import Spec
from speechkit.decode import Decoder
from speechkit.errors import ConfigError, StreamError
from speechkit.events import Listener
from speechkit.frontend.resample import Resample
from speechkit.models import Model
from speechkit.models.fingerprint import cached, fingerprint
from speechkit.models.profile import why_not_streamable
from speechkit.nn import Serial
from speechkit.ops.separable_conv import PRECISIONS, Precision
from speechkit.plans.about import About
from speechkit.plans.program import LoweringError
from speechkit.streaming.engines.cuda.engine import CudaEngine
from speechkit.streaming.engines.native.engine import NativeEngine
from speechkit.streaming.engines.native.layer import NativeLayer, native_layer
from speechkit.streaming.engines.torch import TorchEngine
from speechkit.streaming.nets import checked_rate, suggested_window_s
from speechkit.streaming.waiting import Waiting
from speechkit.tasks import listener_of
from speechkit.tasks.plans import about_of, plan_of


class ModelNet:
    """A model over samples at `sample_rate` (its own if None), natively or else in torch."""

    def __init__(
        self, model: Model, sample_rate: int | None = None, precision: Precision = "float32"
    ) -> None:
        self.source, self.about = model, about_of(model)
        self.sample_rate = checked_rate(sample_rate, self.about.sample_rate)
        self.layer = session_layer(model, self.about, self.sample_rate)
        self.stride, self.rate, self.delay = self.layer.stride, self.layer.rate, self.layer.delay
        self._precision = precision
        self._like_plan = False

    @property
    def digest(self) -> str:
        """The digest of the model's plan if sessions give the same scores as the plan, else that of
        its weights and config."""
        return cached(_plan_digest if self._like_plan else fingerprint, self.source)

    def engine(self, waiting: Waiting) -> NativeEngine | TorchEngine | CudaEngine:
        """The engine of the sessions whose samples are in `waiting`: native, else torch."""
        key = self.sample_rate, waiting.block_samples, self._precision
        native = native_layer(self.source, self.layer, waiting.block_samples, key, self._precision)
        if isinstance(native, NativeLayer):
            self._like_plan = not native.in_torch and self.source.prepared is None
            sessions = native.new_sessions(len(waiting.given))
            return NativeEngine(native, sessions, waiting, native.in_torch)
        return TorchEngine(self.source, self.layer, waiting, native)

    def listener(self, decoder: Decoder | Spec | str | None) -> Listener:
        """The listener of the model's task."""
        return listener_of(self.source, decoder)


class PoolNet(ModelNet):
    """A model for a pool on the model's device.

    `impl` names the implementation of convolutions for the engine of GPUs, which it selects on a
    CPU too.
    """

    def __init__(
        self,
        model: Model,
        sample_rate: int | None = None,
        precision: Precision = "float32",
        impl: str | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            given = f"precision={precision!r:.40}"
            raise ConfigError(f"{given}: give one of {', '.join(PRECISIONS)}")
        super().__init__(model, sample_rate, precision)
        self._impl = impl

    def engine(self, waiting: Waiting) -> NativeEngine | TorchEngine | CudaEngine:
        """The engine of sessions on the model's device."""
        if next(self.source.parameters()).device.type != "cuda" and self._impl is None:
            engine = super().engine(waiting)
            if isinstance(engine, NativeEngine) or self._precision == "float32":
                return engine
        return CudaEngine(self.source, self.layer, waiting, self._precision, self._impl)


def _plan_digest(model: Model) -> str:
    try:
        return plan_of(model).digest
    # a model of clips may stream natively although its head for whole clips has no native form
    except LoweringError:
        return fingerprint(model)


def session_layer(model: Model, about: About, sample_rate: int) -> Serial:
    """The net over audio at `sample_rate`; raises StreamError if a part of it cannot stream."""
    if reason := why_not_streamable(model):
        window_s = suggested_window_s(about)
        raise StreamError(f"{reason}; or give window_s={window_s:g} for an approximate stream")
    net = model.stream_layer(about.window_s)
    if sample_rate == model.sample_rate:
        return net
    return Serial(resample=Resample(sample_rate, model.sample_rate), net=net)
