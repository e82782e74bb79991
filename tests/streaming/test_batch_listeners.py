"""The native hysteresis against the listener it stands for, event for event."""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechkit.events import Event, SpeechEnd, SpeechStart
from speechkit.libraries import load
from speechkit.plans.engine import SOURCE
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing, State
from speechkit.streaming import batch_listeners as module
from speechkit.streaming.batch_listeners import (
    DecidedAt,
    Listeners,
    NativeSpeechListeners,
    batch_listeners,
)
from speechkit.streaming.engine import Scored
from speechkit.streaming.listeners import KeywordListener, SpeechListener

pytestmark = pytest.mark.skipif(isinstance(load(SOURCE), str), reason="there is no C++ compiler")
FRAME_S = 0.01
BLOCKS, FRAMES_EACH, SIZE = 40, 2, 3
Make = Callable[[], Listeners | NativeSpeechListeners]


def both(post: PostProcessing, size: int = SIZE) -> tuple[Make, Make]:
    """What makes the listener in Python, and in C++."""
    listener = SpeechListener(post, FRAME_S, lag_s=0.003)

    def native() -> NativeSpeechListeners:
        made = batch_listeners(listener, size, native=True, classes=2)
        assert isinstance(made, NativeSpeechListeners)
        return made

    return lambda: Listeners(listener, size), native


def random_scores(seed: int, stay: float, ties: bool) -> Scored:
    """Speech and silence that each go on with probability `stay`, NaN where not valid.

    With `ties` logits are whole numbers, so that probabilities meet thresholds exactly.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = SIZE, BLOCKS * FRAMES_EACH
    turns = (torch.rand(shape, generator=generator) > stay).cumsum(1) % 2
    logits = torch.randn(*shape, 2, generator=generator) * 1.5
    logits[..., 1] += 3.0 * turns - 1.5
    valid = torch.rand(shape, generator=generator) < 0.9
    logits = torch.where(valid[..., None], logits.round() if ties else logits, torch.nan)
    return Scored(logits.view(SIZE, BLOCKS, FRAMES_EACH, 2), valid.view(SIZE, BLOCKS, FRAMES_EACH))


def hear_in_pieces(makes: Sequence[Make], scored: Scored, cuts: Sequence[int]) -> list[Any]:
    """Each session's events and last state, by one of `makes` after the other, piece by piece."""
    states: list[dict[str, Any]] = []
    events: list[list[Any]] = [[] for _ in range(SIZE)]
    for (start, end), make in zip(
        itertools.pairwise([0, *cuts, BLOCKS]), itertools.cycle(makes), strict=False
    ):
        current = make()
        if states:
            # as plain data, which goes through a file
            current.states = json.loads(json.dumps(states))
        piece = Scored(*(part[:, start:end].contiguous() for part in scored))
        for row, new in enumerate(current.step(piece, clock(start))):
            events[row] += new
        states = current.states
    for row, found in enumerate(events):
        found += [*current.finish(row, 9999.0), states[row]]
    return events


def clock(start: int) -> DecidedAt:
    """A time of its own for each session and block."""
    return lambda row, block: row * 1000.0 + start + block + 1


milliseconds = st.sampled_from([0, 5, 10, 25, 40, 100, 200, 1000])
thresholds = st.tuples(
    *[
        st.one_of(
            st.floats(0, 1), st.sampled_from([0.0, 0.5, torch.tensor(1.0).sigmoid().item(), 1.0])
        )
    ]
    * 2
)
posts = st.builds(
    lambda pair, speech, silence, before, after, longest_s: PostProcessing(
        onset=max(pair),
        offset=min(pair),
        min_speech_ms=speech,
        min_silence_ms=silence,
        pad_onset_ms=before,
        pad_offset_ms=after,
        max_speech_s=longest_s and max(longest_s, (speech + before) / 500),
    ),
    thresholds,
    *[milliseconds] * 4,
    st.sampled_from([None, 0.1, 0.17, 0.3]),
)
cuts = st.lists(st.integers(0, BLOCKS), max_size=6).map(sorted)
scores = st.builds(
    random_scores, st.integers(0, 10**6), st.sampled_from([0.5, 0.8, 0.95]), st.booleans()
)


@settings(max_examples=150)
@given(posts, scores, cuts)
@example(PostProcessing(), random_scores(0, 0.9, False), [7, 7, 30])
def test_events_are_the_listeners(post: PostProcessing, scored: Scored, cuts: list[int]) -> None:
    python, native = both(post)
    expected = hear_in_pieces([python], scored, [])
    assert hear_in_pieces([native], scored, cuts) == expected
    # a state of one goes on in the other
    assert hear_in_pieces([python, native], scored, cuts) == expected
    assert hear_in_pieces([native, python], scored, cuts) == expected


def test_the_random_scores_hold_starts_and_ends() -> None:
    post = PostProcessing(min_speech_ms=30, min_silence_ms=50)
    found = hear_in_pieces([both(post)[1]], random_scores(0, 0.95, False), [])
    kinds = [type(event) for row in found for event in row[:-1]]
    assert kinds.count(SpeechStart) > 2
    assert kinds.count(SpeechEnd) > 2


def test_a_feed_may_be_longer_or_shorter_than_the_one_before() -> None:
    scored = random_scores(1, 0.8, False)
    python, native = (make() for make in both(PostProcessing(min_silence_ms=20)))
    for count in (1, BLOCKS, 0, 3):
        piece = Scored(*(part[:, :count].contiguous() for part in scored))
        expected = python.step(piece, lambda row, block: float(block))
        assert native.step(piece, lambda row, block: float(block)) == expected
    assert native.states == python.states


def test_infinite_logits_are_certain() -> None:
    inf = torch.inf
    logits = torch.tensor([[-inf, inf], [-inf, 0], [inf, -inf], [0, -inf], [inf, inf], [1e30, 0]])
    piece = Scored(logits.view(1, 1, 6, 2), torch.ones(1, 1, 6, dtype=torch.bool))
    python, native = (make() for make in both(PostProcessing(min_speech_ms=10), size=1))
    events = [each.step(piece, lambda row, block: 1.0) for each in (python, native)]
    assert events[0] == events[1]
    assert python.states == native.states


def test_a_row_starts_anew_alone() -> None:
    speech = Scored(
        torch.tensor([-5.0, 5.0]).expand(SIZE, 10, FRAMES_EACH, 2).contiguous(),
        torch.ones(SIZE, 10, FRAMES_EACH, dtype=torch.bool),
    )

    def events(listeners: Listeners | NativeSpeechListeners) -> list[list[Event]]:
        first = listeners.step(speech, lambda row, block: 1.0)
        listeners.reset(1)
        second = listeners.step(speech, lambda row, block: 2.0)
        last = [listeners.finish(row, 3.0) for row in range(SIZE)]
        return [a + b + c for a, b, c in zip(first, second, last, strict=True)]

    python, native = (events(make()) for make in both(PostProcessing()))
    assert native == python
    assert [sum(isinstance(e, SpeechStart) for e in row) for row in native] == [1, 2, 1]


def test_what_has_no_native_form_uses_its_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    speech = SpeechListener(PostProcessing(), FRAME_S)
    keywords = KeywordListener(Spotting(), ("yes", "no"), FRAME_S)
    assert isinstance(batch_listeners(keywords, 1, native=True, classes=2), Listeners)
    assert isinstance(batch_listeners(speech, 1, native=False, classes=2), Listeners)
    assert isinstance(batch_listeners(speech, 1, native=True, classes=3), Listeners)
    monkeypatch.setattr(module, "load", lambda source: "no C++ compiler")
    assert isinstance(batch_listeners(speech, 1, native=True, classes=2), Listeners)


class Certain(SpeechListener):
    """A custom listener that returns speech everywhere."""

    def step(self, state: State, scores: np.ndarray, decided_s: float) -> tuple[State, list[Event]]:
        return super().step(state, np.full_like(scores, [-9.0, 9.0]), decided_s)


def test_a_subclass_is_not_taken_for_the_listener() -> None:
    listener = Certain(PostProcessing(), FRAME_S)
    assert isinstance(batch_listeners(listener, 1, native=True, classes=2), Listeners)
