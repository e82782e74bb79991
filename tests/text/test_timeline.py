"""Stretches with text as subtitles, labels and tiers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.text.timeline import Recording, audacity, clock, textgrid


@pytest.mark.parametrize(
    ("time_s", "shown"),
    [
        (0, "00:00:00,000"),
        (59.9996, "00:01:00,000"),
        (3599.9994, "00:59:59,999"),
        (3599.9996, "01:00:00,000"),
        (360000, "100:00:00,000"),
    ],
)
def test_a_clock_rounds_to_milliseconds_and_carries(time_s: float, shown: str) -> None:
    assert clock(time_s) == shown


@given(st.floats(0, 1e6))
def test_a_clock_is_the_nearest_millisecond(time_s: float) -> None:
    hours, minutes, seconds = clock(time_s, ".").split(":")
    shown_s = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    assert abs(shown_s - time_s) <= 0.0005 + 1e-9


def test_a_textgrid_is_a_tier_without_gaps_and_empty_intervals() -> None:
    stretches = [(0.5, 1.0, 'say "a"'), (1.0000000001, 1.5, "b"), (1.5, 1.5, "nothing")]
    written = textgrid(stretches, "words", 2)
    times = re.findall(r"xmin = (\S+)\nxmax = (\S+)\ntext = \"(.*)\"\n", written)
    assert times == [
        ("0.000000", "0.500000", ""),
        ("0.500000", "1.000000", 'say ""a""'),
        ("1.000000", "1.500000", "b"),
        ("1.500000", "2.000000", ""),
    ]
    assert "intervals: size = 4\n" in written
    assert written.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0.0')


def test_a_textgrid_of_silence_is_one_empty_interval() -> None:
    assert "size = 1\nintervals [1]:\nxmin = 0.000000\nxmax = 2" in textgrid([], "speech", 2)


def test_audacity_wants_tabs() -> None:
    assert audacity([(0, 1.5, "a b")]) == "0.000000\t1.500000\ta b\n"


def test_a_recording_is_one_word_and_has_a_channel() -> None:
    recording = Recording.of("calls/a  b.wav")
    assert (recording.word, recording.number, recording.channel) == ("a_b", 1, "mix")
