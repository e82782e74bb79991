"""The nets of sessions: a plan, or a model in torch, over samples at the session's rate."""

import math
from typing import TYPE_CHECKING, Protocol

from speechkit.component import Spec
from speechkit.decode import Decoder
from speechkit.errors import ConfigError, StreamError
from speechkit.events import Listener
from speechkit.plans.about import TASKS, About
from speechkit.plans.plan import Plan
from speechkit.plans.resample import at_rate
from speechkit.plans.sessions import Sessions
from speechkit.plans.source import with_torch
from speechkit.plans.timing import Timed
from speechkit.streaming.engines.engine import Engine
from speechkit.streaming.engines.native.engine import NativeEngine
from speechkit.streaming.listeners import Silent, listener_for
from speechkit.streaming.waiting import Waiting

if TYPE_CHECKING:
    from speechkit.models import Model

LONGEST_PERIOD = 2000
"""The most input samples that make a whole number of samples at the model's rate: 441 for 44.1 to
16 kHz."""


class SessionNet(Timed, Protocol):
    """The net of sessions; `stride`, `rate` and `delay` hold for samples at the sessions' rate."""

    @property
    def source(self) -> "Plan | Model":
        """The plan or model."""
        ...

    @property
    def about(self) -> About:
        """The model's properties; its times hold for samples at its own rate."""
        ...

    @property
    def sample_rate(self) -> int:
        """The rate of the sessions' samples in hertz."""
        ...

    @property
    def digest(self) -> str:
        """A digest of what the scores depend on."""
        ...

    def engine(self, waiting: Waiting) -> Engine:
        """The engine of the sessions whose samples are in `waiting`."""
        ...

    def listener(self, decoder: Decoder | Spec | str | None) -> Listener:
        """The listener of a session; `decoder` is for text."""
        ...


class PlanNet:
    """A plan over samples at `sample_rate` (its own if None)."""

    def __init__(self, plan: Plan, sample_rate: int | None = None) -> None:
        self.source, self.about = plan, plan.about
        self.sample_rate = checked_rate(sample_rate, self.about.sample_rate)
        same = self.sample_rate == self.about.sample_rate
        self._plan = plan if same else at_rate(plan, self.sample_rate)
        about = self._plan.about
        self.stride, self.rate, self.delay = about.stride, about.rate, about.delay

    @property
    def digest(self) -> str:
        """The digest of the plan."""
        return self.source.digest

    def engine(self, waiting: Waiting) -> NativeEngine:
        """The engine in C++."""
        loaded = self._plan.laid_out(waiting.block_samples // self.stride)
        return NativeEngine(self, Sessions(loaded, len(waiting.given)), waiting)

    def listener(self, decoder: Decoder | Spec | str | None) -> Listener:
        """The listener of one of the core's tasks; that of a plugin's task gives no events."""
        if decoder is not None and not self.about.decodes:
            raise ConfigError(f"a decoder is for recognition; leave it out for a {self.about.kind}")
        if self.about.task not in TASKS:
            return Silent()
        return listener_for(self.about, self.about.frame_s, decoder)


def net_of(source: "Plan | Model", sample_rate: int | None) -> SessionNet:
    """The net of sessions of a plan, or of a Model in torch, for samples at `sample_rate`."""
    if isinstance(source, Plan):
        return PlanNet(source, sample_rate)
    net: SessionNet = with_torch("speechkit.streaming.engines.choice").ModelNet(source, sample_rate)
    return net


def checked_rate(sample_rate: int | None, own: int) -> int:
    """The rate of samples, the model's `own` if None.

    Raises StreamError for a rate from which samples cannot be resampled to the model's own.
    """
    if sample_rate is None:
        return own
    if not isinstance(sample_rate, int):
        raise StreamError(f"sample_rate={sample_rate!r:.40} is no whole number; give one in hertz")
    period = sample_rate // math.gcd(sample_rate, own)
    if sample_rate < 1 or period > LONGEST_PERIOD:
        raise StreamError(
            f"sample_rate={sample_rate} does not fit {own} Hz; resample the sound to {own} Hz first"
        )
    return sample_rate


def suggested_window_s(about: About) -> float:
    """A suitable window in seconds for a model that cannot stream."""
    return about.window_s or 8.0


def block_strides(about: About, stride: int, sample_rate: int) -> int:
    """The number of strides per block for a net over audio at `sample_rate`."""
    return max(1, round(about.block_s * sample_rate / stride))
