"""A shorter path through a net's blocks is found on half of the recordings."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_compression.cola import oracle, text
from speechkit_compression.depth import Step, along, whole

import speechkit as sk
from speechkit.errors import ConfigError, ManifestError
from speechkit.models import Net
from speechkit.probes import Examples
from speechkit.transforms import transform

Corpus = Callable[..., Path]
classifier = pytest.mark.parametrize("net", ["clip"], indirect=True)
AUDIO = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))


def path(*blocks: int | tuple[int]) -> tuple[Step, ...]:
    """A path; a block in a tuple is without its body."""
    return tuple(Step(b) if isinstance(b, int) else Step(b[0], body=False) for b in blocks)


def test_paper_62_the_whole_path_is_the_net(model: sk.Model) -> None:
    made = along(model, whole(model.config))
    expected = model.state_dict()
    assert made.state_dict().keys() == expected.keys()
    assert all(torch.equal(x, expected[name]) for name, x in made.state_dict().items())


@torch.no_grad()
def test_paper_62_a_path_runs_its_blocks_one_after_another(model: sk.Model) -> None:
    blocks: list[Any] = list(model.encoder)
    c = model.stem(model.features(AUDIO))
    for step in (blocks[0], blocks[1], blocks[0], blocks[1]):
        c = step(c)
    c = blocks[2].after(blocks[2].sum.shortcut(c))
    expected = model.head(blocks[3](c)).x
    made = along(model, path(0, 1, 0, 1, (2,), 3))
    found = made.head(made.encoder(made.stem(made.features(AUDIO)))).x
    assert torch.equal(found, expected)
    fixed = sk.build(replace(model.config, frontend="log_mel:n_mels=16,normalize=fixed"), 1).eval()
    assert along(fixed, path(0, 0, 1, 2, 3)).latency_s > fixed.latency_s


def test_paper_62_the_oracle_counts_recordings_with_a_right_path() -> None:
    whole, shorter, longer = path(0, 1), path(0, (1,)), path(0, 0, 1)
    right = {
        whole: torch.tensor([True, True, True, False, False]),
        shorter: torch.tensor([True, False, True, True, False]),
        longer: torch.tensor([True, True, False, False, False]),
    }
    assert oracle(right, whole) == {
        "right": 0.6,
        "right_by_a_shorter": pytest.approx(2 / 3),
        "wrong_made_right": 0.5,
    }
    assert oracle({whole: right[whole]}, whole)["right_by_a_shorter"] == 0


@classifier
def test_paper_62_the_path_of_the_report_is_the_net(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus(8))
    made, (applied,) = transform(model, ["cola:n=1,simulations=40"], examples)
    report = applied.report
    assert report["chosen"]["blocks"] < report["whole"]["blocks"] == 4
    assert report["whole"]["path"] == "0 1 2 3"
    rows = report["chosen"]["path"].split()
    assert [str(row.block) == "skip" for row, _ in made.config.rows()[1:]] == [
        name.startswith("(") for name in rows
    ]
    front = report["pareto"]
    assert report["chosen"] in front
    assert all(a["half_a"] > b["half_a"] for a, b in pairwise(front))
    assert all(a["blocks"] > b["blocks"] for a, b in pairwise(front))
    old = model.state_dict()
    for name, value in made.named_parameters():
        if name.startswith("encoder"):
            _, place, rest = name.split(".", 2)
            block = "encoder." + rows[int(place)].strip("()")
            assert torch.equal(value, old.get(f"{block}.{rest}", old.get(f"{block}.sum.{rest}")))


@classifier
def test_the_norms_have_the_statistics_of_half_a(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus(8))
    made, _ = transform(model, ["cola:n=1,simulations=10"], examples)
    half = Examples(made, examples.utterances[::2])
    again, _ = transform(made, ["norm_statistics"], half)
    found = {name: x for name, x in made.state_dict().items() if "running" in name}
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in found.items())
    assert not torch.equal(
        made.stem.body[0].norm.running_mean, model.stem.body[0].norm.running_mean
    )


@classifier
def test_paper_62_the_accuracies_are_those_of_the_halves(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus(8))
    made, (applied,) = transform(model, ["cola:n=2,simulations=20"], examples)
    assert applied.report["chosen"]["blocks"] <= 2
    for start, half in ((0, "half_a"), (1, "half_b")):
        part = Examples(model, examples.utterances[start::2])
        for judge, name in ((model, "whole"), (made, "chosen")):
            right = total = 0
            for batch, features in part:
                with torch.no_grad():
                    best = judge.score(features).scores.argmax(1)
                right += int((best == batch.targets).sum())
                total += len(best)
            assert applied.report[name][half] == right / total


@classifier
def test_equal_seeds_find_equal_paths(model: sk.Model, corpus: Corpus) -> None:
    def found(seed: int) -> Any:
        examples = Examples(model, corpus(4), seed=seed)
        return transform(model, ["cola:n=1,simulations=10"], examples)[1][0].report

    assert found(0) == found(0)


def test_a_transcriber_has_a_path_too(net: Net, corpus: Corpus) -> None:
    model = sk.build(net, 1).eval()
    apply = ["cola:n=1,simulations=3"]
    if net.task == "frame":
        with pytest.raises(ConfigError, match="cola: task frame has no prediction for a whol"):
            transform(model, apply, Examples(model, corpus(4)))
    else:
        made, _ = transform(model, apply, Examples(model, corpus(4)))
        assert len(made.encoder) >= 4


@classifier
def test_what_does_not_fit_is_one_line(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="cola needs recordings"):
        transform(model, ["cola"])
    examples = Examples(model, corpus(4))
    for n in (0, 4):
        with pytest.raises(ConfigError, match=f"n={n}; 3 of the encoder's blocks .* from 1 to 3"):
            transform(model, [f"cola:n={n}"], examples)
    with pytest.raises(ConfigError, match="none of the 2 paths runs at most 1 blocks; give more"):
        transform(model, ["cola:n=3,simulations=1"], examples)
    with pytest.raises(ConfigError, match="cola: one recording; give at least two"):
        transform(model, ["cola"], Examples(model, corpus(1)))
    bare = [replace(utterance, label=None) for utterance in examples.utterances]
    with pytest.raises(ManifestError, match="no label None"):
        transform(model, ["cola"], Examples(model, bare))


def test_text_has_brackets_where_a_body_is_missing() -> None:
    assert text(path(0, (1,), 2, 2)) == "0 (1) 2 2"
