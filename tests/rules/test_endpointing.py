"""Where utterances end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.errors import ConfigError
from speechkit.rules.endpointing import End, Endpointing, Rule, Segment, advance, segments

RULE = Rule(before=6, after=3, longest=10)


def ends(rule: Rule, frames: str) -> list[tuple[int, End]]:
    """Where segments end, and why; `.` is a silent frame."""
    state, found = Segment(), []
    for frame, letter in enumerate(frames, start=1):
        state, end = advance(rule, state, letter == ".")
        found += [(frame, end)] if end else []
    return found


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ("......", [(6, "nothing")]),
        (".....a...", [(9, "pause")]),
        ("a..a...", [(7, "pause")]),
        ("aaaaaaaaaa", [(10, "longest")]),
        ("aaaaaaa...", [(10, "pause")]),
        ("a........." + "a..", [(4, "pause"), (10, "nothing")]),
        ("", []),
    ],
)
def test_ends_by_hand(frames: str, expected: list[tuple[int, End]]) -> None:
    assert ends(RULE, frames) == expected


def test_the_times_of_the_defaults() -> None:
    assert Endpointing().rule(frame_s=0.02) == Rule(before=120, after=60, longest=1000)


@given(st.lists(st.booleans(), max_size=60))
def test_no_segment_outlasts_the_longest_or_ends_in_speech_before(silent: list[bool]) -> None:
    state = Segment()
    for quiet in silent:
        frames = state.frames + 1
        state, end = advance(RULE, state, quiet)
        assert frames <= RULE.longest
        if end:
            assert state == Segment()
            assert quiet or end == "longest"


@pytest.mark.parametrize("name", ["silence_before_s", "silence_after_s", "longest_s"])
def test_times_are_above_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0"):
        Endpointing(**{name: 0})


def test_a_score_is_from_0_to_1() -> None:
    with pytest.raises(ConfigError, match=r"least_score=1\.5"):
        Endpointing(least_score=1.5)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ("......", []),
        (".....a...", [(0, 9)]),
        ("aaaaaaaaaa", [(0, 10)]),
        ("a........." + "a..", [(0, 4), (10, 13)]),
        (".", []),
        ("", []),
    ],
)
def test_segments_with_speech(frames: str, expected: list[tuple[int, int]]) -> None:
    assert list(segments(RULE, [letter == "." for letter in frames])) == expected


def test_a_segment_whose_last_frame_alone_is_speech_has_speech() -> None:
    rule = Rule(before=9, after=3, longest=4)
    assert list(segments(rule, [True, True, True, False])) == [(0, 4)]
