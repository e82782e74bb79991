"""The report of a recogniser."""

from pathlib import Path

import pytest

from speechkit.data import Utterance
from speechkit.events import Final, Partial, Word
from speechkit.report.page import page
from speechkit.report.recognition import Delays, Recognized, Result, delays


def result(
    reference: str, text: str, speaker: str | None = None, score: float = 0.5, **more
) -> Result:
    utterance = Utterance(audio=Path("a&b.wav"), duration_s=2.0, text=reference, speaker=speaker)
    words = tuple(Word(w, float(i), i + 0.5, score) for i, w in enumerate(text.split()))
    return Result(utterance, reference, text, words, **more)


def test_figures_count_words_and_time() -> None:
    judged = Recognized([result("a b c d", "a x c"), result("e", "e f")], wall_s=1.0)
    assert judged.figures == pytest.approx(
        {
            "n": 2,
            "wer": 3 / 5,
            "cer": 5 / 8,
            "words": 5,
            "substitutions": 1,
            "deletions": 1,
            "insertions": 1,
            "rtf": 0.25,
            # three of five words are right, and all claim a half
            "calibration_error": 0.1,
        }
    )


def test_an_empty_text_has_no_calibration() -> None:
    judged = Recognized([result("a", "")], wall_s=1.0)
    assert "calibration_error" not in judged.figures
    assert [title for title, _ in judged.sections()] == ["Speakers", "Worst utterances"]


def test_speakers_come_worst_first() -> None:
    judged = Recognized(
        [result("a b", "a b", "ann"), result("a b", "a", "bob"), result("a", "a")], wall_s=1.0
    )
    html = dict(judged.sections())["Speakers"]
    assert html.index("bob") < html.index("ann")
    assert "unknown" in html
    assert '<tr><td>bob</td><td class="n">1</td><td class="n">2</td>' in html


def test_the_worst_utterances_show_references_and_texts() -> None:
    judged = Recognized([result("a", "a"), result("b c", "<i>"), result("d", "d e")], wall_s=1.0)
    html = dict(judged.sections())["Worst utterances"]
    first, second = html.split("\n")
    assert "<del>b</del>" in first or "<del>b c</del>" in first
    assert "<ins>&lt;i&gt;</ins>" in first
    assert "a&amp;b.wav, 2 wrong" in first
    assert second.endswith("d <ins>e</ins></p>")
    assert "<i>" not in page("t", judged.figures, judged.sections())


def test_delays_are_from_words_to_their_events() -> None:
    words = Word("hi", 1.0, 1.5, 1), Word("lo", 1.5, 2.0, 1)
    events = [
        Partial("h", "", 1.1, 1.3),
        Partial("hi", "h", 1.4, 1.6),
        Partial("hi l", "hi", 1.7, 1.8),
        Final("hi lo", words, 2.0, 2.9),
        Partial("ok", "ok", 5.0, 5.1),
        Final("ok", (Word("ok", 4.5, 5.0, 1),), 5.0, 5.8),
    ]
    found = delays(events)
    assert found.first == pytest.approx((0.3, 0.6))
    assert found.word == pytest.approx((0.1, 0.9, 0.1))
    assert found.final == pytest.approx((0.9, 0.8))


def test_latencies_are_medians_and_a_section() -> None:
    late = Delays(first=(0.1, 0.2, 0.9), word=(0.5,), final=(1.0,))
    judged = Recognized([result("a", "a", delays=late)], wall_s=1.0)
    assert judged.figures["first_latency_s"] == 0.2
    assert '<td class="n">0.90</td>' in dict(judged.sections())["Latency"]
