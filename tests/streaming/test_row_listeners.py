"""The native hysteresis against the listener it stands for, event for event."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechkit.events import Event, SpeechEnd, SpeechStart
from speechkit.plans.engine import library
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing, State
from speechkit.streaming.engines.engine import Scores
from speechkit.streaming.listeners import KeywordListener, SpeechListener
from speechkit.streaming.row_listeners import (
    Clock,
    Listeners,
    NativeSpeechListeners,
    RowListeners,
    row_listeners,
)

ENGINE = library()
pytestmark = pytest.mark.skipif(isinstance(ENGINE, str), reason="there is no C++ compiler")
FRAME_S = 0.01
BLOCKS, FRAMES_EACH, SIZE = 40, 2, 3
ALL = np.arange(SIZE)
Make = Callable[[], RowListeners]


def both(post: PostProcessing, size: int = SIZE) -> tuple[Make, Make]:
    """What makes the listener in Python, and in C++."""
    listener = SpeechListener(post, FRAME_S, lag_s=0.003)

    def native() -> RowListeners:
        made = row_listeners(listener, size, 2, ENGINE)
        assert isinstance(made, NativeSpeechListeners)
        return made

    return lambda: Listeners(listener, size), native


def random_scores(seed: int, stay: float, ties: bool) -> Scores:
    """Speech and silence that each go on with probability `stay`, NaN where not valid.

    With `ties` logits are whole numbers, so that probabilities meet thresholds exactly.
    """
    chance = np.random.default_rng(seed)
    shape = SIZE, BLOCKS, FRAMES_EACH
    turns = (chance.random((SIZE, BLOCKS * FRAMES_EACH)) > stay).cumsum(1) % 2
    logits = chance.standard_normal((*shape, 2), np.float32) * 1.5
    logits[..., 1] += 3.0 * turns.reshape(shape) - 1.5
    valid = chance.random(shape) < 0.9
    logits = np.where(valid[..., None], logits.round() if ties else logits, np.float32(np.nan))
    return Scores(logits, valid)


def in_pieces(makes: Sequence[Make], scored: Scores, cuts: Sequence[int]) -> list[Any]:
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
        for row, event in current.step(ALL, piece(scored, start, end), clock(start)):
            events[row].append(event)
        states = current.states
    for row, found in enumerate(events):
        found += [*current.finish(row, 9999.0), states[row]]
    return events


def piece(scored: Scores, start: int, end: int) -> Scores:
    return Scores(*(part[:, start:end].copy() for part in scored))


def clock(start: int, size: int = SIZE) -> Clock:
    """A time of its own for each session and block."""
    taken = 1000 * np.arange(size) + start
    return Clock(np.full(size, 10**6), taken, np.zeros(size, np.int64), 1, 1)


milliseconds = st.sampled_from([0, 5, 10, 25, 40, 100, 200, 1000])
thresholds = st.tuples(
    *[st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1 / (1 + math.exp(-1)), 1.0]))] * 2
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
def test_events_are_the_listeners(post: PostProcessing, scored: Scores, cuts: list[int]) -> None:
    python, native = both(post)
    expected = in_pieces([python], scored, [])
    assert in_pieces([native], scored, cuts) == expected
    # a state of one goes on in the other
    assert in_pieces([python, native], scored, cuts) == expected
    assert in_pieces([native, python], scored, cuts) == expected


def test_the_random_scores_hold_starts_and_ends() -> None:
    post = PostProcessing(min_speech_ms=30, min_silence_ms=50)
    found = in_pieces([both(post)[1]], random_scores(0, 0.95, False), [])
    kinds = [type(event) for row in found for event in row[:-1]]
    assert kinds.count(SpeechStart) > 2
    assert kinds.count(SpeechEnd) > 2


def test_a_step_may_be_longer_or_shorter_than_the_one_before() -> None:
    scored = random_scores(1, 0.8, False)
    python, native = (make() for make in both(PostProcessing(min_silence_ms=20)))
    for count in (1, BLOCKS, 0, 3):
        some = piece(scored, 0, count)
        assert native.step(ALL, some, clock(0)) == python.step(ALL, some, clock(0))
    assert native.states == python.states


def test_a_step_of_some_rows_changes_no_other() -> None:
    scored, post = random_scores(2, 0.9, False), PostProcessing(min_silence_ms=20)
    python, native = (make() for make in both(post, size=7))
    before = native.states
    rows = np.array([5, 0, 3])
    expected = python.step(rows, scored, clock(0))
    assert {index for index, _ in expected} == {0, 1, 2}
    assert native.step(rows, scored, clock(0)) == expected
    assert native.states == python.states
    for row in (1, 2, 4, 6):
        assert native.states[row] == before[row]


def test_infinite_logits_are_certain() -> None:
    inf = np.inf
    logits = np.array(
        [[-inf, inf], [-inf, 0], [inf, -inf], [0, -inf], [inf, inf], [1e30, 0]], np.float32
    )
    some = Scores(logits.reshape(1, 1, 6, 2), np.ones((1, 1, 6), np.bool_))
    python, native = (make() for make in both(PostProcessing(min_speech_ms=10), size=1))
    events = [each.step(ALL[:1], some, clock(0, 1)) for each in (python, native)]
    assert events[0] == events[1]
    assert python.states == native.states


def test_a_row_starts_anew_alone() -> None:
    shape = SIZE, 10, FRAMES_EACH
    speech = Scores(np.tile(np.array([-5, 5], np.float32), (*shape, 1)), np.ones(shape, np.bool_))

    def events(listeners: RowListeners) -> list[tuple[int, Event]]:
        found = listeners.step(ALL, speech, clock(1))
        listeners.reset(1)
        found += listeners.step(ALL, speech, clock(2))
        return found + [(row, e) for row in range(SIZE) for e in listeners.finish(row, 3.0)]

    python, native = (events(make()) for make in both(PostProcessing()))
    assert native == python
    starts = [row for row, event in native if isinstance(event, SpeechStart)]
    assert [starts.count(row) for row in range(SIZE)] == [1, 2, 1]


def test_a_row_may_have_a_rule_of_its_own() -> None:
    scored, usual = random_scores(3, 0.9, False), PostProcessing(min_silence_ms=20)
    strict = PostProcessing(onset=0.9, offset=0.8, min_speech_ms=20, max_speech_s=0.2)

    def events(make: Make, own: SpeechListener | None) -> list[list[Event]]:
        listeners = make()
        listeners.reset(1, own)
        found = listeners.step(ALL, scored, clock(0))
        found += [(row, e) for row in range(SIZE) for e in listeners.finish(row, 9999.0)]
        assert listeners.states[1]["frames"] > 0
        listeners.reset(1)
        again = listeners.step(ALL, scored, clock(0))
        found += [(SIZE, event) for row, event in again if row == 1]
        return [[e for r, e in found if r == row] for row in range(SIZE + 1)]

    for usually, strictly in zip(both(usual), both(strict), strict=True):
        own = SpeechListener(usual, FRAME_S, lag_s=0.003).by(strict)
        mixed, by_usual, by_strict = (
            events(usually, own),
            events(usually, None),
            events(strictly, None),
        )
        assert mixed == [by_usual[0], by_strict[1], *by_usual[2:]]
        assert by_usual[1] != by_strict[1]


def test_what_has_no_native_form_uses_its_listener() -> None:
    speech = SpeechListener(PostProcessing(), FRAME_S)
    keywords = KeywordListener(Spotting(), ("yes", "no"), FRAME_S)
    assert isinstance(row_listeners(keywords, 1, 2, ENGINE), Listeners)
    assert isinstance(row_listeners(speech, 1, 2, None), Listeners)
    assert isinstance(row_listeners(speech, 1, 3, ENGINE), Listeners)


class Certain(SpeechListener):
    """A custom listener that returns speech everywhere."""

    def step(self, state: State, scores: np.ndarray, decided_s: float) -> tuple[State, list[Event]]:
        return super().step(state, np.full_like(scores, [-9.0, 9.0]), decided_s)


def test_a_subclass_is_not_taken_for_the_listener() -> None:
    listener = Certain(PostProcessing(), FRAME_S)
    assert isinstance(row_listeners(listener, 1, 2, ENGINE), Listeners)
