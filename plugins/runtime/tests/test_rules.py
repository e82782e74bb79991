"""The rules decide as speechkit's own do, frame by frame."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from speechkit_runtime.rules import Event, Keywords, Speech, Text

from speechkit.config import to_dict
from speechkit.decode.greedy import GreedyCTC
from speechkit.rules.endpointing import Endpointing
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing
from speechkit.streaming.listeners import KeywordListener, Listener, SpeechListener, TextListener
from speechkit.text.align import EARLY_S

FRAME_S = 0.02


def both(listener: Listener, rule: Any, scores: np.ndarray) -> tuple[list[Any], list[Event]]:
    """The events of a listener and of a rule that are given the same scores in pieces."""
    state = listener.init()
    wanted: list[Any] = []
    found: list[Event] = []
    for at in range(0, len(scores), 4):
        decided_s = (at + 4) * FRAME_S
        part = scores[at : at + 4]
        state, events = listener.step(state, torch.from_numpy(part), decided_s)
        wanted += events
        found += rule.step(part, decided_s)
    assert len(wanted) > 5
    return wanted + listener.finish(state, 99.0), found + rule.finish(99.0)


def wavering(seed: int, frames: int, labels: int) -> np.ndarray:
    """Scores that stay for a while where they are."""
    chance = np.random.default_rng(seed)
    steps = np.repeat(chance.normal(0, 3, (frames // 5, labels)), 5, axis=0)
    return (steps + chance.normal(0, 1, steps.shape)).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_speech(seed: int, assert_heard: Any) -> None:
    post = PostProcessing()
    if seed % 2:
        post = replace(post, pad_onset_ms=60, pad_offset_ms=100, min_silence_ms=60)
    if seed > 2:
        post = replace(post, max_speech_s=0.5)
    for lag_s in (0.0, 0.315):
        listener = SpeechListener(post, FRAME_S, lag_s)
        rule = Speech({"postprocess": to_dict(post)}, FRAME_S, lag_s)
        assert_heard(*both(listener, rule, wavering(seed, 600, 2)))


@pytest.mark.parametrize("seed", range(6))
def test_keywords(seed: int, assert_heard: Any) -> None:
    silent = ("b",) if seed % 3 else ()
    spotting = Spotting(threshold=0.6, hold_ms=60 if seed % 2 else 20, silent=silent)
    metadata = {"spotting": to_dict(spotting), "labels": ["a", "b", "c"], "frame_s": FRAME_S}
    listener = KeywordListener(spotting, ("a", "b", "c"), FRAME_S)
    assert_heard(*both(listener, Keywords(metadata), wavering(seed, 2000, 3)))


@pytest.mark.parametrize("longest_s", [20.0, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_text(seed: int, longest_s: float, assert_heard: Any) -> None:
    scores = wavering(seed, 2000, 4)
    # long pauses, so that texts end
    scores[:, 3] += np.repeat(np.random.default_rng(seed).choice([0, 20], 40), 50)
    log_probs = torch.from_numpy(scores).log_softmax(1).numpy()
    endpointing, confidence = Endpointing(silence_after_s=0.7, longest_s=longest_s), (1.5, -0.3)
    metadata = {
        "labels": [" ", "a", "b"],
        "frame_s": FRAME_S,
        "early_s": EARLY_S,
        "endpointing": to_dict(endpointing),
        "confidence": confidence,
    }
    listener = TextListener(GreedyCTC((" ", "a", "b")), FRAME_S, endpointing, confidence)
    assert_heard(*both(listener, Text(metadata), log_probs))
