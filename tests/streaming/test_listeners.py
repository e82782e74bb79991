"""Events from scores: speech and keywords."""

import itertools
from dataclasses import replace

import numpy as np

from speechkit.events import Event, Keyword, Listener, SpeechEnd, SpeechStart, to_row
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing
from speechkit.streaming.listeners import KeywordListener, SpeechListener


def listen(listener: Listener, scores: np.ndarray, cuts: list[int]) -> list[Event]:
    """The events of frames of one second each, in pieces."""
    state, events, edges = listener.init(), [], [0, *sorted(cuts), len(scores)]
    for start, end in itertools.pairwise(edges):
        state, new = listener.step(state, scores[start:end], float(end))
        events += new
    return events + listener.finish(state, float(len(scores)))


def logits_of(path: list[int], p: float = 0.9, labels: int = 3) -> np.ndarray:
    """Logits whose best label has probability `p`; −1 is a frame that knows nothing."""
    scores = np.zeros((len(path), labels), np.float32)
    for frame, label in enumerate(path):
        if label >= 0:
            scores[frame, label] = np.log(p * (labels - 1) / (1 - p))
    return scores


def test_speech_is_reported_with_its_time_and_the_time_of_decision() -> None:
    listener = SpeechListener(PostProcessing(min_speech_ms=2000, min_silence_ms=3000), frame_s=1.0)
    logits = logits_of([0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1], labels=2)
    state, events = listener.init(), []
    for frame, row in enumerate(np.split(logits, len(logits))):
        state, new = listener.step(state, row, frame + 1.0)
        events += new
    events += listener.finish(state, 13.0)
    assert events == [
        SpeechStart(1, 3),
        SpeechEnd(7, 10),
        SpeechStart(11, 13),
        SpeechEnd(13, 13),
    ]


def test_a_windows_score_is_that_of_its_middle() -> None:
    listener = SpeechListener(PostProcessing(min_speech_ms=1000), frame_s=1.0, lag_s=0.25)
    assert listen(listener, logits_of([0, 1, 1], labels=2), [])[0].at_s == 0.75


def test_a_keyword_is_detected_once_it_has_held_and_again_after_a_pause() -> None:
    rule = Spotting(threshold=0.8, hold_ms=2000, pause_ms=3000)
    listener = KeywordListener(rule, ("a", "b", "c"), frame_s=1.0)
    path = [-1, 1, 1, 1, -1, 1, 1, 1, -1, -1, -1, 1, 1, 2, 2, 0, -1]
    found = [(event.label, event.at_s) for event in listen(listener, logits_of(path), [])]
    assert found == [("b", 3), ("b", 13), ("c", 15)]
    assert listen(listener, logits_of(path, p=0.7), []) == []


def test_labels_that_stand_for_everything_else_are_no_event() -> None:
    path = [0, 0, 0, 1, 1, 1, 2, 2, 2, 1, 1, 0, 0, 0]
    labels = ("yes", "unknown", "background")
    rule = Spotting(threshold=0.8, hold_ms=2000, pause_ms=3000)
    found = listen(KeywordListener(rule, labels, frame_s=1.0), logits_of(path), [])
    assert [(event.label, event.at_s) for event in found] == [("yes", 2), ("yes", 13)]
    every = replace(rule, silent=())
    found = listen(KeywordListener(every, labels, frame_s=1.0), logits_of(path), [])
    assert [event.label for event in found] == ["yes", "unknown", "background", "unknown", "yes"]


def test_an_event_is_one_json_object() -> None:
    assert to_row(Keyword("yes", 0.5, 1.0, 2.0)) == {
        "event": "keyword",
        "label": "yes",
        "score": 0.5,
        "at_s": 1.0,
        "decided_s": 2.0,
    }
