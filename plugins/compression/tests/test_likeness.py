"""How like two models' scores are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from speechkit_compression.healing import divergence
from speechkit_compression.likeness import likeness

import speechkit as sk
from speechkit.models import Net
from speechkit.probes import Examples

Corpus = Callable[..., Path]


def test_a_model_is_like_itself(model: sk.Model, corpus: Corpus) -> None:
    divergence, agreement = likeness(model, model, Examples(model, corpus(3)))
    assert abs(divergence) < 1e-9
    assert agreement == 1.0


def test_it_is_the_mean_over_utterances_and_over_valid_frames(net: Net, corpus: Corpus) -> None:
    one, other = (sk.build(net, seed).eval() for seed in (0, 1))
    manifest = corpus(5)
    found = likeness(one, other, Examples(one, manifest, batch_size=5))
    apart, equal, count = [], 0, 0
    for _, features in Examples(one, manifest, batch_size=1):
        with torch.no_grad():
            mine, theirs = one.score(features), other.score(features)
        apart.append(divergence(mine, theirs).item())
        frames = int(mine.lengths[0]) if mine.scores.ndim == 3 else 1
        same = (mine.scores.argmax(-1) == theirs.scores.argmax(-1)).flatten()[:frames]
        equal, count = equal + int(same.sum()), count + frames
    assert found.divergence == pytest.approx(sum(apart) / 5, rel=1e-4)
    assert found.agreement == pytest.approx(equal / count, abs=1e-9)
