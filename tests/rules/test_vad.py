"""Stretches of speech: the frame-by-frame rule against a plain reading of its definition."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechkit.errors import ConfigError
from speechkit.rules.vad import PostProcessing, State, advance, finish, overlap_smooth, segments

FRAME_S = 0.01


def by_definition(probabilities: list[float], post: PostProcessing) -> list[tuple[int, int]]:
    """Binarise with hysteresis, drop short stretches, close short gaps, pad and join."""
    speech, inside = [], False
    for p in probabilities:
        inside = p >= (post.offset if inside else post.onset)
        speech.append(inside)
    edges = [
        i for i, (a, b) in enumerate(zip([False, *speech], [*speech, False], strict=True)) if a != b
    ]
    frames = {
        name: round(getattr(post, name) / 10)
        for name in ("min_speech_ms", "min_silence_ms", "pad_onset_ms", "pad_offset_ms")
    }
    found = [
        (a, b)
        for a, b in zip(edges[::2], edges[1::2], strict=True)
        if b - a >= frames["min_speech_ms"]
    ]
    joined: list[tuple[int, int]] = []
    for a, b in found:
        if joined and a - joined[-1][1] < frames["min_silence_ms"]:
            a = joined.pop()[0]
        joined.append((a, b))
    padded: list[tuple[int, int]] = []
    for a, b in joined:
        a, b = a - frames["pad_onset_ms"], b + frames["pad_offset_ms"]
        if padded and a <= padded[-1][1]:
            a = padded.pop()[0]
        padded.append((a, b))
    return [(max(0, a), min(len(speech), b)) for a, b in padded]


probabilities = st.lists(st.sampled_from([0.0, 0.4, 0.5, 0.9]), max_size=80)
rules = st.builds(
    PostProcessing,
    onset=st.just(0.5),
    offset=st.sampled_from([0.3, 0.5]),
    min_speech_ms=st.integers(0, 6).map(lambda n: 10 * n),
    min_silence_ms=st.integers(0, 8).map(lambda n: 10 * n),
    pad_onset_ms=st.integers(0, 3).map(lambda n: 10 * n),
    pad_offset_ms=st.integers(0, 3).map(lambda n: 10 * n),
)


@given(probabilities, rules)
def test_the_rule_is_its_definition(values: list[float], post: PostProcessing) -> None:
    found = [tuple(round(t / FRAME_S) for t in pair) for pair in segments(values, FRAME_S, post)]
    assert found == by_definition(values, post)


@given(probabilities, rules)
def test_edges_alternate_and_are_decided_after_they_happen(
    values: list[float], post: PostProcessing
) -> None:
    rule, state, edges = post.rule(FRAME_S), State(), []
    for value in values:
        state, new = advance(rule, state, value)
        assert all(edge.frame <= state.frames for edge in new)
        edges += new
    last = finish(rule, state)
    edges += [last] if last else []
    assert [edge.starts for edge in edges] == [True, False] * (len(edges) // 2)
    assert [edge.frame for edge in edges] == sorted(edge.frame for edge in edges)


@given(probabilities, rules)
def test_a_frame_is_known_to_be_speech_or_not_so_many_frames_later(
    values: list[float], post: PostProcessing
) -> None:
    rule, state = post.rule(FRAME_S), State()
    for now, p in enumerate(values):
        state, edges = advance(rule, state, p)
        assert all(now - rule.late <= edge.frame for edge in edges)


def test_a_start_is_returned_once_the_segment_has_lasted() -> None:
    rule, state = PostProcessing(min_speech_ms=30).rule(FRAME_S), State()
    edges_of_frames = []
    for _ in range(5):
        state, edges = advance(rule, state, 0.9)
        edges_of_frames.append([edge.frame for edge in edges])
    assert edges_of_frames == [[], [], [0], [], []]


def test_stretches_that_meet_after_padding_are_one() -> None:
    post = PostProcessing(pad_onset_ms=200, pad_offset_ms=200, min_silence_ms=100)
    values = [0.9] * 10 + [0.1] * 20 + [0.9] * 10
    assert segments(values, 0.02, post) == [(0, 0.8)]


def test_no_stretch_ends_after_the_sound() -> None:
    assert segments([0.9] * 10, 0.02, PostProcessing(), duration_s=0.19) == [(0, 0.19)]


def test_a_long_stretch_is_split_at_the_least_probable_pause() -> None:
    values = [0.9] * 100
    values[20], values[70], values[80] = 0.5, 0.6, 0.7
    found = segments(values, FRAME_S, PostProcessing(max_speech_s=0.9))
    assert found == [(0, pytest.approx(0.7)), (pytest.approx(0.7), 1.0)]


def test_a_split_does_not_depend_on_how_near_certainty_is_rounded() -> None:
    values = torch.tensor([0.9995] * 30 + [1 - 1e-9] * 40, dtype=torch.float64)
    post = PostProcessing(max_speech_s=0.5)
    exact, rounded = values.tolist(), values.float().tolist()
    assert segments(exact, FRAME_S, post) == segments(rounded, FRAME_S, post)


@given(probabilities, rules, st.sampled_from([0.2, 0.25, 0.4]))
def test_no_stretch_is_longer_than_the_maximum(
    values: list[float], post: PostProcessing, longest_s: float
) -> None:
    if longest_s < (post.min_speech_ms + post.pad_onset_ms) / 500:
        return
    bounded = replace(post, max_speech_s=longest_s)
    found = [tuple(round(t / FRAME_S) for t in pair) for pair in segments(values, FRAME_S, bounded)]
    assert all(b - a <= longest_s / FRAME_S + 1e-6 for a, b in found)
    assert all(a < b for a, b in found)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(found))
    # what was speech before still is, but for the pauses where it is split
    whole = by_definition(values, post)
    assert all(any(a <= c and d <= b for a, b in whole) for c, d in found)


def test_overlapping_windows_are_smoothed_frame_by_frame() -> None:
    windows = np.array([0.0, 1.0, 0.0])
    mean = overlap_smooth(windows, window_frames=4, hop_frames=2, how="mean")
    assert mean.tolist() == [0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0]
    median = overlap_smooth(np.array([0.0, 1.0, 1.0]), window_frames=6, hop_frames=2)
    assert median.tolist() == [0, 0, 0.5, 0.5, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"onset": 0.3, "offset": 0.5},
        {"onset": 1.5},
        {"min_silence_ms": -1},
        {"max_speech_s": 0},
        {"max_speech_s": float("nan")},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give"):
        PostProcessing(**wrong)


def test_times_are_written_as_short_as_they_are() -> None:
    post = PostProcessing(min_speech_ms=0)
    for frames in range(1, 300):
        ((start_s, end_s),) = segments([0.0] * frames + [1.0], 0.02, post)
        assert (start_s, end_s) == (round(start_s, 2), round(end_s, 2))
        assert abs(start_s - frames * 0.02) < 1e-9
