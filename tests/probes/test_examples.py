"""The utterances that probes and transforms look at."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from speechkit.data import read_manifest
from speechkit.errors import ManifestError
from speechkit.models import MatchboxNet, Net, build
from speechkit.plugins import registry
from speechkit.probes import Examples
from speechkit.tasks import task_of

Corpus = Callable[..., Path]


def test_every_pass_gives_the_same_batches_and_features(net: Net, corpus: Corpus) -> None:
    model = build(net).train()
    examples = Examples(model, corpus(5), batch_size=2)
    first, second = list(examples), list(examples)
    assert sorted(i for batch, _ in first for i in batch.indices) == list(range(5))
    for (batch, features), (_, again) in zip(first, second, strict=True):
        assert torch.equal(features.x, again.x)
        assert (
            features.lengths.tolist() == model.features(batch.audio, batch.lengths).lengths.tolist()
        )
        assert not features.x.requires_grad
    assert all(module.training for module in model.modules())
    modes = []
    model.frontend.register_forward_pre_hook(lambda layer, args: modes.append(layer.training))
    assert len(list(examples)) == len(modes)
    assert not any(modes)


def test_shuffled_batches_never_end_and_hold_every_utterance_once_in_a_pass(
    net: Net, corpus: Corpus
) -> None:
    def passes(seed: int) -> list[list[tuple[int, ...]]]:
        shuffled = Examples(build(net).eval(), corpus(8), seed=seed, batch_size=2).shuffled()
        return [[tuple(batch.indices) for batch, _ in islice(shuffled, 4)] for _ in range(3)]

    first, second, _ = found = passes(0)
    for each in found:
        assert sorted(index for batch in each for index in batch) == list(range(8))
    assert first != second
    assert passes(0) == found != passes(1)


def test_the_loss_is_that_of_the_task(net: Net, corpus: Corpus) -> None:
    model, task = build(net).eval(), task_of(build(net))
    examples = Examples(model, corpus(4), batch_size=3)
    for batch, features in examples:
        output = model.score(features)
        expected = registry().build("loss", task.loss)(
            output.scores, output.lengths, *task.targets(batch, output)
        )
        losses = examples.loss(output, batch)
        assert losses.shape == batch.lengths.shape
        assert torch.equal(losses, expected)
        for found, wanted in zip(
            examples.targets(output, batch), task.targets(batch, output), strict=True
        ):
            assert torch.equal(found, wanted)


def test_an_utterance_needs_no_target_until_a_loss_is_asked_for(net: Net, corpus: Corpus) -> None:
    rows = read_manifest(corpus(3))
    rows[1] = replace(rows[1], text=None, label=None, segments=None)
    model = build(net).eval()
    examples = Examples(model, rows)
    ((batch, features),) = examples
    with pytest.raises(ManifestError, match=r"train\.jsonl:2"):
        examples.loss(model.score(features), batch)
    with pytest.raises(ManifestError, match=r"train\.jsonl:2"):
        examples.targets(model.score(features), batch)


def test_clips_are_drawn_by_the_seed(nets: dict[str, Net], corpus: Corpus) -> None:
    model, manifest = build(nets["clip"]), corpus(8)
    drawn = [Examples(model, manifest, seed=seed).clips(3) for seed in (0, 0, 1)]
    lengths = [[len(clip) for clip in clips] for clips in drawn]
    assert lengths[0] == lengths[1] != lengths[2]
    assert len(Examples(model, manifest).clips(100)) == 8


def test_another_model_has_the_same_utterances(nets: dict[str, Net], corpus: Corpus) -> None:
    examples = Examples(build(nets["clip"]), corpus(3), seed=4, batch_size=2)
    config = MatchboxNet(labels=("low", "high"), frontend="log_mel:n_mels=8,normalize=running")
    other = examples.of(build(config))
    assert (other.utterances, other.seed) == (examples.utterances, 4)
    assert [features.x.shape[1] for _, features in other] == [8, 8]
    with pytest.raises(ManifestError, match="no utterances"):
        Examples(build(config), [])
