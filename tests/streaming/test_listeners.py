"""Events from scores: speech, keywords, texts."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from speechkit.events import Event, Final, Keyword, Partial, SpeechEnd, SpeechStart, to_row
from speechkit.spotting import Spotting
from speechkit.streaming.listeners import (
    PAUSE_S,
    KeywordListener,
    Listener,
    SpeechListener,
    TextListener,
)
from speechkit.vad import PostProcessing

LABELS = (" ", "h", "i")
BLANK = len(LABELS)


def listen(listener: Listener, scores: Tensor, cuts: list[int]) -> list[Event]:
    """The events of frames of one second each, in pieces."""
    state, events, edges = listener.init(), [], [0, *sorted(cuts), len(scores)]
    for start, end in itertools.pairwise(edges):
        state, new = listener.step(state, scores[start:end], float(end))
        events += new
    return events + listener.finish(state, float(len(scores)))


def spelled(path: list[int]) -> Tensor:
    """CTC log-probabilities whose best label has probability 0.9."""
    p = torch.full((len(path), BLANK + 1), 0.1 / BLANK)
    p[range(len(path)), path] = 0.9
    return p.log()


def heard(path: list[int], p: float = 0.9, labels: int = 3) -> Tensor:
    """Logits whose best label has probability `p`; −1 is a frame that knows nothing."""
    scores = torch.zeros(len(path), labels)
    for frame, label in enumerate(path):
        if label >= 0:
            scores[frame, label] = torch.tensor(p * (labels - 1) / (1 - p)).log()
    return scores


def test_speech_is_said_where_it_is_and_when_it_is_sure() -> None:
    listener = SpeechListener(PostProcessing(min_speech_ms=2000, min_silence_ms=3000), frame_s=1.0)
    logits = heard([0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1], labels=2)
    state, events = listener.init(), []
    for frame, row in enumerate(logits.split(1)):
        state, new = listener.step(state, row, frame + 1.0)
        events += new
    events += listener.finish(state, 13.0)
    assert events == [
        SpeechStart(1, 3),
        SpeechEnd(7, 10),
        SpeechStart(11, 13),
        SpeechEnd(13, 13),
    ]


def test_a_windows_score_speaks_for_its_middle() -> None:
    listener = SpeechListener(PostProcessing(min_speech_ms=1000), frame_s=1.0, lag_s=0.25)
    assert listen(listener, heard([0, 1, 1], labels=2), [])[0].at_s == 0.75


def test_a_keyword_is_said_once_it_has_held_and_again_after_a_pause() -> None:
    rule = Spotting(threshold=0.8, hold_ms=2000, pause_ms=3000)
    listener = KeywordListener(rule, ("a", "b", "c"), frame_s=1.0)
    path = [-1, 1, 1, 1, -1, 1, 1, 1, -1, -1, -1, 1, 1, 2, 2, 0, -1]
    said = [(event.label, event.at_s) for event in listen(listener, heard(path), [])]
    assert said == [("b", 3), ("b", 13), ("c", 15)]
    assert listen(listener, heard(path, p=0.7), []) == []


def test_a_text_grows_and_is_final_after_a_pause() -> None:
    listener = TextListener(LABELS, frame_s=PAUSE_S / 4)
    path = [BLANK, 1, 1, 2, 0, 1, BLANK, BLANK, BLANK, BLANK, 2, BLANK]
    state, events = listener.init(), []
    for frame, row in enumerate(spelled(path).split(1)):
        state, new = listener.step(state, row, float(frame))
        events += new
    events += listener.finish(state, 12.0)
    assert [e.text for e in events if isinstance(e, Partial)] == ["h", "hi", "hi h", "i"]
    first, last = (e for e in events if isinstance(e, Final))
    assert (first.text, last.text) == ("hi h", "i")
    assert [word.text for word in first.words] == ["hi", "h"]
    edges = [t * 4 / PAUSE_S for w in first.words for t in (w.start_s, w.end_s)]
    assert edges == pytest.approx([1, 4, 5, 6])
    assert first.words[0].score == pytest.approx(0.9)
    assert first.decided_s == 9


@given(st.lists(st.integers(0, BLANK), max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_final_texts_do_not_depend_on_chunks(path: list[int], cuts: list[int]) -> None:
    listener = TextListener(LABELS, frame_s=PAUSE_S / 4)
    cuts = [min(cut, len(path)) for cut in cuts]
    texts = [
        [
            (e.text, e.words, e.at_s)
            for e in listen(listener, spelled(path), cut)
            if isinstance(e, Final)
        ]
        for cut in (cuts, list(range(len(path))))
    ]
    assert texts[0] == texts[1]


def test_an_event_is_one_json_object() -> None:
    assert to_row(Keyword("yes", 0.5, 1.0, 2.0)) == {
        "event": "keyword",
        "label": "yes",
        "score": 0.5,
        "at_s": 1.0,
        "decided_s": 2.0,
    }
