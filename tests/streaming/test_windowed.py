"""The approximate stream: which frames of which window it keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import speechkit as sk
from speechkit.errors import StreamError
from speechkit.models import Net
from speechkit.rules.vad import PostProcessing
from speechkit.streaming import WindowedStream, windowed
from speechkit.streaming.listeners import SEGMENT_S

RATE = 16000


class Recorder:
    """A listener whose events are the scores themselves, its state their number."""

    def init(self) -> "Count":
        return Count()

    def step(self, state: "Count", scores: np.ndarray, decided_s: float) -> tuple["Count", list]:
        return Count(), [(row, decided_s) for row in torch.from_numpy(scores)]

    def finish(self, state: "Count", decided_s: float) -> list:
        return []


class Count:
    """A state of nothing."""


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windowed, "listener_of", lambda *_: Recorder())


def sound(seconds: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(round(seconds * RATE), generator=generator) * 2 - 1


def test_frames_come_from_the_middle_of_their_window(nets: dict[str, Net], recorded: None) -> None:
    model = sk.build(replace(nets["ctc"], frontend="log_mel:n_mels=16")).eval()
    stream = sk.stream(model, window_s=2, right_s=0.5, hop_s=0.5, vad=None)
    assert stream.approximate
    assert stream.latency_s == 1.0
    x = sound(3.3)
    rows = stream.feed(x) + stream.finish()

    def window(start_s: float, end_s: float) -> Tensor:
        with torch.inference_mode():
            return model(x[None, round(start_s * RATE) : round(end_s * RATE)]).scores[0]

    # after 0.5 s nothing is far enough from the end; then half a second per run
    runs = [(0.0, 1.0, 0.0, 0.5), (0.0, 1.5, 0.5, 1.0), (0.0, 2.0, 1.0, 1.5), (0.5, 2.5, 1.5, 2.0)]
    runs += [(1.0, 3.0, 2.0, 2.5), (1.3, 3.3, 2.5, 3.3)]
    expected = []
    for start_s, end_s, first_s, last_s in runs:
        scores = window(start_s, end_s)
        at = [round((t - start_s) / model.frame_s) for t in (first_s, last_s)]
        expected += list(scores[slice(*at)])
    assert torch.equal(torch.stack([row for row, _ in rows]), torch.stack(expected))
    assert [at for _, at in rows[:25]] == [1.0] * 25


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 12_000), max_size=8))
def test_every_chunking_gives_the_same(
    nets: dict[str, Net], recorded: None, cuts: list[int]
) -> None:
    model = sk.build(nets["ctc"]).eval()
    x, found = sound(0.75), []
    for edges in ([], sorted(cuts)):
        stream = sk.stream(model, window_s=0.4, right_s=0.1, hop_s=0.1, vad=None)
        events = [e for part in np.split(x.numpy(), edges) for e in stream.feed(part)]
        found.append(torch.stack([row for row, _ in events + stream.finish()]))
    assert torch.equal(*found)


def test_a_short_recording_is_read_whole(nets: dict[str, Net], recorded: None) -> None:
    model = sk.build(nets["ctc"]).eval()
    x = sound(0.5)
    stream = sk.stream(model, window_s=8, vad=None)
    rows = stream.feed(x) + stream.finish()
    with torch.inference_mode():
        assert torch.equal(torch.stack([row for row, _ in rows]), model(x[None]).scores[0])
    assert sk.stream(model, window_s=8).finish() == []


def test_a_clip_classifier_answers_once_a_hop(nets: dict[str, Net], recorded: None) -> None:
    model = sk.build(nets["clip"]).eval()
    x = sound(1.0)
    rows = sk.stream(model, window_s=0.6, right_s=0, hop_s=0.2).feed(x)
    with torch.inference_mode():
        last = model(x[None, round(0.4 * RATE) :]).scores[0]
    assert len(rows) == 5
    assert torch.equal(rows[-1][0], last)


def test_a_clip_classifiers_events_keep_the_time_of_the_sound() -> None:
    blocks = (sk.Block(channels=8, kernel=5), sk.Block(channels=8, kernel=1, separable=False))
    eager = PostProcessing(onset=0, offset=0)
    model = sk.build(sk.MarbleNet(blocks=blocks, postprocess=eager)).eval()
    # an eighth of this window is no whole number of frames
    stream = sk.stream(model, window_s=0.63)
    *_, end = stream.feed(sound(8.0)) + stream.finish()
    assert end.at_s == pytest.approx(8.0 - SEGMENT_S / 2, abs=0.01)


def test_a_state_is_restored(nets: dict[str, Net]) -> None:
    model = sk.build(nets["frame"]).eval()
    x = sound(2.0)
    whole = sk.stream(model, window_s=0.5, right_s=0.1, hop_s=0.1)
    expected = whole.feed(x) + whole.finish()
    first, second = (sk.stream(model, window_s=0.5, right_s=0.1, hop_s=0.1) for _ in range(2))
    begun = first.feed(x[:12_345])
    second.state = first.state
    assert begun + second.feed(x[12_345:]) + second.finish() == expected
    with pytest.raises(StreamError, match="of another window"):
        sk.stream(model, window_s=0.7, right_s=0.1, hop_s=0.1).state = first.state


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"hop_s": 0}, "hop_s=0: give a number from 0.02 to 600"),
        ({"hop_s": 0.001}, "hop_s=0.001: give a number from 0.02 to 600"),
        ({"right_s": -1}, "right_s=-1: give a number from 0 to 600"),
        ({"right_s": 5, "hop_s": 5}, "window_s >= hop_s"),
    ],
)
def test_impossible_windows_are_refused(
    nets: dict[str, Net], wrong: dict[str, float], expected: str
) -> None:
    with pytest.raises(StreamError, match=expected):
        WindowedStream(sk.build(nets["ctc"]), window_s=8, **wrong)
