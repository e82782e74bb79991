"""Transcripts as text, JSON, subtitles and CTM."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.events import Word
from speechkit.text.timeline import Recording
from speechkit.text.transcript import FORMATS, LINE, LINES, PAUSE_S, Transcript, subtitles

RECORDING = Recording.of("a.wav")


@st.composite
def spoken(draw: st.DrawFn) -> tuple[Word, ...]:
    """Words one after the other, of any length, at any hour."""
    at_s = draw(st.floats(0, 2e5))
    words = []
    for _ in range(draw(st.integers(0, 25))):
        start_s = at_s + draw(st.sampled_from([0, 0.0004, 0.1, PAUSE_S, 3]))
        at_s = start_s + draw(st.floats(0.02, 2))
        text = draw(st.text("ab-'", min_size=1, max_size=60))
        words.append(Word(text, start_s, at_s, draw(st.floats(0, 1))))
    return tuple(words)


def transcript(words: tuple[Word, ...]) -> Transcript:
    return Transcript(" ".join(w.text for w in words), words, (), words[-1].end_s if words else 1)


def ms(clock: str) -> int:
    hours, minutes, seconds, rest = map(int, re.split("[:,.]", clock))
    assert minutes < 60
    assert seconds < 60
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest


@given(spoken())
def test_subtitles_hold_every_word_in_lines_that_fit(words: tuple[Word, ...]) -> None:
    cues = list(subtitles(words))
    assert " ".join(line for *_, lines in cues for line in lines).split() == [w.text for w in words]
    for start_s, end_s, lines in cues:
        assert start_s < end_s
        assert 1 <= len(lines) <= LINES
        assert all(len(line) <= LINE or " " not in line for line in lines)
    assert all(a[1] <= b[0] for a, b in pairwise(cues))


def test_a_pause_ends_a_subtitle() -> None:
    words = Word("a", 0, 1, 1), Word("b", 1.2, 2, 1), Word("c", 3, 4, 1)
    assert list(subtitles(words)) == [(0, 2, ["a b"]), (3, 4, ["c"])]


def test_a_subtitle_stays_no_longer_than_it_may() -> None:
    words = [Word("a", at, at + 1.0, 1) for at in map(float, range(20))]
    assert [end_s - start_s for start_s, end_s, _ in subtitles(words)] == [7, 7, 6]


@given(spoken())
def test_srt_and_vtt_times_go_forward(words: tuple[Word, ...]) -> None:
    for form in ("srt", "vtt"):
        written = FORMATS[form](transcript(words), RECORDING)
        times = re.findall(r"^(\S+) --> (\S+)$", written, re.MULTILINE)
        assert len(times) == len(list(subtitles(words)))
        edges = [ms(t) for pair in times for t in pair]
        assert edges == sorted(edges)
    numbers = re.findall(r"^(\d+)$", FORMATS["srt"](transcript(words), RECORDING), re.MULTILINE)
    assert numbers == [str(i + 1) for i in range(len(times))]


def test_vtt_escapes_what_would_be_markup() -> None:
    written = FORMATS["vtt"](transcript((Word("<b>&", 0, 1, 1),)), RECORDING)
    assert written == "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n&lt;b&gt;&amp;\n\n"


@given(spoken())
def test_ctm_lines_have_six_fields_and_do_not_overlap(words: tuple[Word, ...]) -> None:
    rows = [
        line.split(" ")
        for line in FORMATS["ctm"](transcript(words), Recording.of("x/a b.wav")).splitlines()
    ]
    assert [row[4] for row in rows] == [w.text for w in words]
    assert all(row[:2] == ["a_b", "1"] and len(row) == 6 for row in rows)
    spans = [(round(1000 * float(row[2])), round(1000 * float(row[3]))) for row in rows]
    assert all(duration > 0 for _, duration in spans)
    assert all(a + duration <= b for (a, duration), (b, _) in pairwise(spans))


@given(spoken())
def test_json_holds_text_words_and_duration(words: tuple[Word, ...]) -> None:
    row = json.loads(FORMATS["json"](transcript(words), RECORDING))
    assert set(row) == {"audio_filepath", "channel", "text", "words", "characters", "duration_s"}
    assert [w["text"] for w in row["words"]] == [w.text for w in words]
    assert all(set(w) == {"text", "start_s", "end_s", "score"} for w in row["words"])


@pytest.mark.parametrize("form", FORMATS)
def test_silence_can_be_written(form: str) -> None:
    written = FORMATS[form](Transcript("", (), (), 1.0), RECORDING)
    assert written.count("\n") <= (18 if form == "textgrid" else 2)
