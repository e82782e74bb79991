"""Blocks in a row are left out by the angle between their input and output."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_compression.depth_prune import DepthPrune
from speechkit_compression.healing import heal

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.models import Net
from speechkit.probes import Examples
from speechkit.transforms import transform

Corpus = Callable[..., Path]


def apply(model: sk.Model, corpus: Corpus, name: str, **options: Any) -> tuple[sk.Model, Any]:
    made, (applied,) = transform(model, [name], Examples(model, corpus(), **options))
    return made, applied.report


@pytest.mark.parametrize("chosen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_paper_77_planted_identities_are_pruned(
    model: sk.Model,
    corpus: Corpus,
    planted: Callable[[sk.Model, int], None],
    chosen: tuple[int, ...],
) -> None:
    for index in chosen:
        planted(model, index)
    made, report = apply(model, corpus, f"depth_prune:n={len(chosen)}")
    assert report["blocks"] == list(chosen)
    angles = report["angles"][str(len(chosen))]
    assert angles[str(chosen[0])] == pytest.approx(0, abs=1e-5)
    features = next(iter(Examples(model, corpus())))[1]
    with torch.no_grad():
        expected, found = model.score(features).scores, made.score(features).scores
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_paper_77_the_angle_is_that_of_a_span_of_blocks(model: sk.Model, corpus: Corpus) -> None:
    _, report = apply(model, corpus, "depth_prune:n=0")
    assert {n: list(found) for n, found in report["angles"].items()} == {
        "1": ["0", "1", "2"],
        "2": ["0", "1"],
        "3": ["0"],
    }
    total, frames = 0.0, 0
    with torch.no_grad():
        for _, features in Examples(model, corpus()):
            c = model.encoder[0](model.stem(features))
            y = model.encoder[2](model.encoder[1](c))
            cosine = torch.cosine_similarity(c.x.double(), y.x.double(), dim=1)[c.valid]
            total, frames = total + (cosine.acos() / torch.pi).sum().item(), frames + len(cosine)
    assert report["angles"]["2"]["1"] == pytest.approx(total / frames, abs=1e-5)


def test_paper_77_no_block_is_pruned_for_0(model: sk.Model, corpus: Corpus) -> None:
    made, report = apply(model, corpus, "depth_prune:n=0")
    assert report["blocks"] == []
    expected = model.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in made.state_dict().items())


def test_paper_77_padding_does_not_count(model: sk.Model, corpus: Corpus) -> None:
    one, other = (apply(model, corpus, "depth_prune:n=1", batch_size=n)[1] for n in (1, 6))
    for count, found in one["angles"].items():
        assert found == pytest.approx(other["angles"][count], abs=1e-6)


def test_paper_77_it_heals_towards_the_scores_of_the_given_net(
    model: sk.Model, corpus: Corpus
) -> None:
    examples = Examples(model, corpus(), batch_size=3, seed=2)
    pruned, healed = (
        transform(model, [f"depth_prune:n=2,heal={steps}"], examples)[0] for steps in (0, 4)
    )
    losses = heal(pruned, model, examples, 4)
    assert all(torch.equal(x, healed.state_dict()[k]) for k, x in pruned.state_dict().items())
    _, (applied,) = transform(model, ["depth_prune:n=2,heal=4"], examples)
    assert applied.report["loss"] == losses[-1:]


def test_widths_that_meet_again_can_be_pruned_together(net: Net, corpus: Corpus) -> None:
    stem, row, end = net.blocks
    wide, narrow = (replace(row, copies=1, channels=channels) for channels in (12, 8))
    model = sk.build(replace(net, blocks=(stem, wide, narrow, end)), 1).eval()
    made, report = apply(model, corpus, "depth_prune:n=2")
    assert report["blocks"] == [0, 1]
    assert [row.channels for row, _ in made.config.rows()] == [8, 12]
    with pytest.raises(ConfigError, match=r"n=1; give a number of residual blocks .*: 0, 2$"):
        apply(model, corpus, "depth_prune:n=1")


def test_what_does_not_fit_is_one_line(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="depth_prune needs recordings"):
        transform(model, ["depth_prune:n=1"])
    for n in (-1, 4):
        with pytest.raises(ConfigError, match=rf"n={n}; .*: 0, 1, 2, 3$"):
            apply(model, corpus, f"depth_prune:n={n}")


def test_a_negative_number_of_batches_is_refused() -> None:
    with pytest.raises(ConfigError, match="heal=-5; give 0 or more"):
        DepthPrune(n=1, heal=-5)
