"""The samples that events bring are those of the sound, however it is cut or resumed."""

import itertools
import pickle
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import speechkit as sk
from speechkit.errors import ConfigError, StreamError
from speechkit.events import Event, SpeechStart, to_row
from speechkit.models import Model, Net
from speechkit.streaming import kept
from speechkit.streaming.base import Session

from .test_bundled import MODELS, SOUNDS

POSTS = {
    "plain": {},
    "padded": {"pad_onset_ms": 60, "pad_offset_ms": 40},
    "split": {"max_speech_s": 0.5, "pad_onset_ms": 40},
}
PRE_ROLL_MS = 150.0


def detector(post: str) -> tuple[Model, np.ndarray]:
    model = MODELS["vad"].with_(postprocess=POSTS[post])
    return model, SOUNDS["vad"][: 5 * model.sample_rate].numpy()


def events_of(session: Session, parts: Iterable[np.ndarray]) -> list[Event]:
    return [event for part in parts for event in session.feed(part)] + session.finish()


def check(events: list[Event], x: np.ndarray, rate: int, pre_roll_ms: float) -> None:
    """Every event brings what lies in the sound between its times."""
    begin = -1
    for event in events:
        if isinstance(event, SpeechStart):
            begin = max(0, round(event.at_s * rate) - round(pre_roll_ms / 1000 * rate))
            end = round(event.decided_s * rate)
        else:
            end = round(event.at_s * rate)
        np.testing.assert_array_equal(event.samples, x[begin:end])
        assert event.samples.dtype == np.float32


@pytest.mark.parametrize("post", POSTS)
@settings(max_examples=4)
@given(data=st.data())
def test_events_bring_their_samples_for_any_chunking(post: str, data: st.DataObject) -> None:
    model, x = detector(post)
    cuts = data.draw(st.lists(st.integers(0, len(x)), max_size=30).map(sorted))
    parts = [x[a:b] for a, b in itertools.pairwise([0, *cuts, len(x)])]
    session = sk.stream(model, pre_roll_ms=PRE_ROLL_MS, keep_segments=True)
    half = len(parts) // 2
    events = [event for part in parts[:half] for event in session.feed(part)]
    # what the session gave later must not matter to its copy
    again = pickle.loads(pickle.dumps(session))
    session.finish()
    events += events_of(again, parts[half:])
    assert events == events_of(sk.stream(model), [x])
    assert len(events) > 2
    check(events, x, model.sample_rate, PRE_ROLL_MS)


@pytest.mark.parametrize("rate", [8000, 48000])
def test_samples_are_those_fed_at_their_own_rate(rate: int) -> None:
    model, _ = detector("plain")
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * rate).astype(np.float32)
    sound[: rate // 2] = 0
    eager = model.with_(postprocess={"onset": 0.01, "offset": 0.01})
    events = events_of(
        sk.stream(eager, rate, pre_roll_ms=100, keep_segments=True), np.split(sound, 50)
    )
    assert events
    check(events, sound, rate, 100)


def test_a_window_brings_samples_too(nets: dict[str, Net]) -> None:
    model = sk.build(nets["frame"]).eval().with_(postprocess={"onset": 0, "offset": 0})
    x = np.random.default_rng(0).uniform(-1, 1, 16000).astype(np.float32)
    events = events_of(sk.stream(model, window_s=0.4, keep_segments=True), np.array_split(x, 7))
    start, end = events
    assert isinstance(start, SpeechStart)
    np.testing.assert_array_equal(end.samples, x)


def test_only_what_was_asked_for_is_brought() -> None:
    model, x = detector("plain")
    for options, brings in (
        ({}, (False, False)),
        ({"pre_roll_ms": 0}, (True, False)),
        ({"keep_segments": True}, (True, True)),
    ):
        start, end, *_ = events_of(sk.stream(model, **options), [x])
        assert (start.samples is not None, end.samples is not None) == brings
        assert "samples" not in to_row(end)


def test_memory_is_bounded_and_what_does_not_fit_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept, "MAX_KEPT_S", 1.0)
    model = MODELS["vad"].with_(postprocess={"onset": 0, "offset": 0})
    x = np.random.default_rng(0).uniform(-1, 1, 20 * 16000).astype(np.float32)
    for options, most_s in (({"keep_segments": True}, 1.2), ({"pre_roll_ms": 500}, 0.8)):
        stream = sk.stream(model, **options)
        for part in np.array_split(x, 1000):
            stream.feed(part)
        assert 0.5 < stream._kept.state.sound.size / 16000 < most_s
        (end,) = stream.finish()
        if "keep_segments" in options:
            assert np.array_equal(end.samples, x[-len(end.samples) :])
            assert len(end.samples) == pytest.approx(16000, abs=2000)
            assert "a segment is longer than 1 s" in caplog.text


def test_a_feed_does_not_hold_the_callers_memory() -> None:
    model, x = detector("plain")
    stream, fed = sk.stream(model, keep_segments=True), x.copy()
    events = stream.feed(fed)
    fed[:] = 0
    check([*events, *stream.finish()], x, model.sample_rate, 0)


def test_settings_that_do_not_fit_are_refused(nets: dict[str, Net]) -> None:
    for kind in ("ctc", "clip"):
        with pytest.raises(ConfigError, match="pre_roll_ms and keep_segments are for speech"):
            sk.stream(sk.build(nets[kind]).eval(), pre_roll_ms=100)
    model = sk.build(nets["frame"]).eval()
    for wrong in (-1, float("nan"), 601_000):
        with pytest.raises(ConfigError, match="pre_roll_ms="):
            sk.stream(model, pre_roll_ms=wrong)
    one, other = sk.stream(model, pre_roll_ms=100), sk.stream(model)
    for a, b in ((one, other), (other, one)):
        with pytest.raises(StreamError, match="of another pre_roll_ms"):
            a.state = b.state
