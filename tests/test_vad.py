"""Stretches of speech: the frame-by-frame rule against a plain reading of its definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechkit.errors import ConfigError
from speechkit.vad import Listening, PostProcessing, advance, finish, overlap_smooth, segments

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
        if padded and a < padded[-1][1]:
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
    rule, state, edges = post.rule(FRAME_S), Listening(), []
    for value in values:
        state, edge = advance(rule, state, value)
        if edge:
            assert edge.frame <= state.frames
            edges.append(edge)
    last = finish(rule, state)
    edges += [last] if last else []
    assert [edge.starts for edge in edges] == [True, False] * (len(edges) // 2)
    assert [edge.frame for edge in edges] == sorted(edge.frame for edge in edges)


def test_a_start_is_said_once_the_stretch_has_lasted() -> None:
    rule, state = PostProcessing(min_speech_ms=30).rule(FRAME_S), Listening()
    said = []
    for _ in range(5):
        state, edge = advance(rule, state, 0.9)
        said.append(edge.frame if edge else None)
    assert said == [None, None, 0, None, None]


def test_overlapping_windows_are_smoothed_frame_by_frame() -> None:
    windows = torch.tensor([0.0, 1.0, 0.0])
    mean = overlap_smooth(windows, window_frames=4, hop_frames=2, how="mean")
    assert mean.tolist() == [0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0]
    median = overlap_smooth(torch.tensor([0.0, 1.0, 1.0]), window_frames=6, hop_frames=2)
    assert median.tolist() == [0, 0, 0.5, 0.5, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "wrong", [{"onset": 0.3, "offset": 0.5}, {"onset": 1.5}, {"min_silence_ms": -1}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give"):
        PostProcessing(**wrong)
