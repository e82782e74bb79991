"""Approximate streaming for models that read whole utterances: runs on overlapping windows."""

import speechkit.torch_required

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechkit.config import check_range
from speechkit.data import read_audio
from speechkit.data.samples import Samples, as_samples
from speechkit.decode import Decoder
from speechkit.errors import StreamError
from speechkit.events import Event
from speechkit.limits import HIGHEST_RATE, LOWEST_RATE, MAX_KEPT_S
from speechkit.models import Model, evaluating
from speechkit.models.fingerprint import cached, fingerprint
from speechkit.models.model import Output
from speechkit.models.net import Name
from speechkit.streaming.base import Session
from speechkit.streaming.gate import DETECTOR, Detector
from speechkit.streaming.opening import gate_of
from speechkit.streaming.state import AGAIN, State, checked, pack, unpack
from speechkit.tasks import listener_of
from speechkit.tasks.plans import about_of
from speechkit.units import Seconds, to_samples

PLACE = {
    "held": int,
    "consumed": int,
    "given_frames": int,
    "finished": bool,
    "listening": dict,
    "kept": object,
    "gate": object,
}
"""The values in a state besides the window."""


class WindowedStream(Session):
    """An approximate session: every `hop_s` the model runs on the last `window_s` seconds.

    Each run gives the new frames up to `right_s` before the end of the window. So `latency_s` is
    hop_s + right_s, or more if the `vad` decides later. Both default to a quarter of the window,
    for a clip classifier to an eighth and 0. Features are normalised over the window, so scores
    differ from those of the whole recording: evaluate it by its word error rate. A clip classifier
    gives one row of scores for each window. `scores` are those of the latest frame, for a meter. A
    stream belongs to one thread; the model, the `decoder` and the `vad` may be shared.
    """

    approximate = True

    def __init__(
        self,
        model: Model,
        sample_rate: int | None = None,
        window_s: float = 8.0,
        right_s: float | None = None,
        hop_s: float | None = None,
        decoder: Decoder | Name | None = None,
        vad: Detector = DETECTOR,
        pre_roll_ms: float | None = None,
        keep_segments: bool = False,
    ) -> None:
        kept = pre_roll_ms, keep_segments
        self._made_with = model, sample_rate, window_s, right_s, hop_s, decoder, vad, *kept
        check_range("window_s", window_s, model.frame_s, MAX_KEPT_S, error=StreamError)
        if right_s is None:
            right_s = 0 if model.per_clip else window_s / 4
        if hop_s is None:
            hop_s = window_s / (8 if model.per_clip else 4)
        least = {"hop_s": (hop_s, model.frame_s), "right_s": (right_s, 0)}
        for name, (seconds, low) in least.items():
            check_range(name, seconds, low, MAX_KEPT_S, error=StreamError)
        if hop_s + right_s > window_s:
            raise StreamError(
                f"window_s={window_s:g}, right_s={right_s:g}, hop_s={hop_s:g}: give "
                "window_s >= hop_s + right_s"
            )
        self.model = model
        self.sample_rate = model.sample_rate if sample_rate is None else sample_rate
        check_range(
            "sample_rate",
            self.sample_rate,
            LOWEST_RATE,
            HIGHEST_RATE,
            whole=True,
            error=StreamError,
        )
        # a whole number of frames, so that every window begins at a frame of the recording
        self.window_s, self.right_s, self.hop_s = (
            round(seconds / model.frame_s) * model.frame_s for seconds in (window_s, right_s, hop_s)
        )
        self._gate = gate_of(about_of(model), self.sample_rate, vad, 1, self.right_s)
        held = self._gate.held if self._gate else 0
        self.latency_s = self.hop_s + self.right_s + held * model.frame_s
        self._frame_s = self.hop_s if model.per_clip else model.frame_s
        self._listener = listener_of(model, decoder, self._frame_s)
        self._hop = to_samples(Seconds(self.hop_s), self.sample_rate)
        self._window = np.zeros(to_samples(Seconds(self.window_s), self.sample_rate), np.float32)
        self._held = 0
        self._consumed = 0
        self._given_frames = 0
        self._finished = False
        self._listening = self._listener.init()
        self._keep_sound(self._listener, *kept)
        self._settings |= {"window": [self.window_s, self.right_s, self.hop_s]}
        self.scores: NDArray[np.float32] | None = None

    @property
    def _fed(self) -> int:
        return self._consumed

    def _feed(self, samples: Samples) -> list[Event]:
        self._check_open()
        x = as_samples(samples)
        events: list[Event] = []
        while len(x):
            part, x = np.split(x, [self._hop - self._consumed % self._hop])
            self._keep(part)
            due = self._consumed % self._hop == 0
            until_s = self._consumed / self.sample_rate - self.right_s
            if self._gate:
                self._gate.speech.feed(part)
            if due:
                scores = self._run(until_s)
                events += self._events(self._gate.feed(0, scores) if self._gate else scores)
        return events

    def _finish(self) -> list[Event]:
        self._check_open()
        end_s = self._consumed / self.sample_rate
        # a clip classifier has no new window if the audio ends with a hop
        answered = self.model.per_clip and self._consumed % self._hop == 0
        scores = self._run(end_s) if end_s >= self.model.frame_s and not answered else None
        self._finished = True
        events: list[Event] = []
        if self._gate:
            self._gate.speech.finish()
            decided = [] if scores is None else [self._gate.feed(0, scores)]
            scores = np.concatenate([*decided, self._gate.finish(0)])
        if scores is not None:
            events = self._events(scores)
        return events + self._listener.finish(self._listening, end_s)

    @property
    def state(self) -> State:
        """Everything the next event depends on, as named arrays for `safetensors.numpy`.

        Assign it to a stream with the same model and settings to go on from there.
        """
        return pack(
            {"window": self._window},
            {
                "held": self._held,
                "consumed": self._consumed,
                "given_frames": self._given_frames,
                "finished": self._finished,
                "listening": asdict(self._listening),
                "kept": self._kept_state(),
                "gate": self._gate and self._gate.state,
            },
            self._own_settings,
        )

    @state.setter
    def state(self, stored: State) -> None:
        like = {"window": self._window}
        arrays, plain = unpack(stored, like, self._own_settings)
        values = checked(plain, PLACE)
        if not 0 <= values["held"] <= min(len(self._window), values["consumed"]):
            raise StreamError(f"the state is damaged: its sample counts are invalid; {AGAIN}")
        # parts that may raise are checked first
        kept = self._kept_of(values["kept"])
        if self._gate:
            self._gate.state = values["gate"]
        self._listening = self._listener.restore(values["listening"])
        self._window = arrays["window"]
        self._held, self._consumed = values["held"], values["consumed"]
        self._given_frames, self._finished = values["given_frames"], values["finished"]
        self._go_on(kept)

    @property
    def _own_settings(self) -> dict[str, Any]:
        return {
            "engine": "windowed",
            "model": cached(fingerprint, self.model),
            "sample_rate": self.sample_rate,
            "vad": self._gate and self._gate.speech.digest,
            **self._settings,
        }

    def _check_open(self) -> None:
        if self._finished:
            raise StreamError("this stream is finished; make a new one")

    def _keep(self, part: NDArray[np.float32]) -> None:
        """Appends samples to the window and drops the oldest."""
        over = max(0, self._held + len(part) - len(self._window))
        self._window[: self._held - over] = self._window[over : self._held]
        self._held += len(part) - over
        self._window[self._held - len(part) : self._held] = part
        self._consumed += len(part)

    def _run(self, until_s: float) -> NDArray[np.float32]:
        """The scores of the new frames that end by `until_s`."""
        scores = self._scores()
        start = round((self._consumed - self._held) / self.sample_rate / self._frame_s)
        if not self.model.per_clip:
            until = round(until_s / self._frame_s)
            scores = scores[max(0, self._given_frames - start) : max(0, until - start)]
        self._given_frames += len(scores)
        return scores

    def _events(self, scores: NDArray[np.float32]) -> list[Event]:
        """The events of new scores."""
        if len(scores):
            self.scores = scores[-1]
        decided_s = self._consumed / self.sample_rate
        self._listening, events = self._listener.step(self._listening, scores, decided_s)
        return events

    @torch.inference_mode()
    def _scores(self) -> NDArray[np.float32]:
        """The model's scores of the window, `[T, n]`."""
        audio = read_audio(self._window[: self._held], self.sample_rate, self.model.sample_rate)
        device = next(self.model.parameters()).device
        with evaluating(self.model):
            output: Output = self.model(audio[None].to(device))
        scores = output.scores if self.model.per_clip else output.scores[0, : output.lengths[0]]
        found: NDArray[np.float32] = scores.float().numpy(force=True)
        return found
