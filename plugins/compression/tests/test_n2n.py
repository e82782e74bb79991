"""Students of a net: how they are made, how they are judged, and which one is chosen."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_compression import n2n
from speechkit_compression.n2n import accuracy, narrower, reward, without

import speechkit as sk
from speechkit.data import read_manifest
from speechkit.errors import ComponentError, ConfigError, ManifestError
from speechkit.probes import Examples
from speechkit.tasks import task_of
from speechkit.tasks.base import error_of, metrics_of
from speechkit.transforms import transform

Corpus = Callable[..., Path]
SHORT = "epochs=2,rollouts=3,steps=2,final_steps=3"


def test_the_reward_is_that_of_the_paper() -> None:
    assert reward(1.0, 0.1) == pytest.approx(0.99)
    assert reward(1.0, 1.0) == 0
    assert reward(0.5, 0.5) == pytest.approx(0.5 * 0.75)
    assert reward(1.0, 1.2) < 0


def test_a_removed_sub_block_is_away_and_the_others_keep_their_weights(model: sk.Model) -> None:
    # the sub-blocks behind the stem: three rows of two, and one
    made = without(model, [1, 1, 0, 0, 0, 1, 1], seed=0)
    rows = [(row.repeat, row.channels) for row, _ in made.config.rows()]
    assert rows == [(1, 8), (2, 8), (1, 8), (1, 12)]
    old, new = model.state_dict(), made.state_dict()
    pairs = [
        ("stem.body.0.channel.weight", "stem.body.0.channel.weight"),
        ("encoder.0.sum.body.2.channel.weight", "encoder.0.sum.body.2.channel.weight"),
        ("encoder.1.sum.body.0.norm.running_mean", "encoder.2.sum.body.0.norm.running_mean"),
        ("encoder.2.body.0.conv.weight", "encoder.3.body.0.conv.weight"),
    ]
    for name, origin in pairs:
        assert torch.equal(new[name], old[origin])


def test_a_row_keeps_the_entries_of_the_sub_blocks_that_stay() -> None:
    rows = (
        sk.Block(channels=8, kernel=5),
        sk.Block(channels=8, kernel=(3, 5, 7), activation=("relu", "silu", "relu"), repeat=3),
    )
    model = sk.build(sk.MatchboxNet(labels=("a", "b"), blocks=rows)).eval()
    row = without(model, [1, 0, 1], seed=0).config.blocks[1]
    assert row.kernel == (3, 7)
    assert [str(spec) for spec in row.activation] == ["relu", "relu"]  # type: ignore[union-attr]


def test_a_row_with_a_stride_has_no_choice() -> None:
    rows = tuple(sk.Block(channels=8, kernel=3, stride=1 + i % 2) for i in range(4))
    model = sk.build(sk.MatchboxNet(labels=("a", "b"), blocks=rows)).eval()
    made = without(model, [0], seed=0)
    assert [row.stride for row, _ in made.config.rows()] == [1, 2, 2]
    assert made.frame_s == model.frame_s


def test_a_narrower_row_has_the_first_channels(model: sk.Model) -> None:
    made = narrower(model, [0.5, 0.25, 1.0, 0.01, 0.5], seed=0)
    assert [row.channels for row, _ in made.config.rows()] == [4, 2, 8, 1, 6]
    old = model.state_dict()
    for name, value in made.state_dict().items():
        assert torch.equal(value, old[name][tuple(map(slice, value.shape))])


def test_the_accuracy_is_that_of_the_task(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus(6))
    task = task_of(model)
    error = error_of(task, metrics_of(task, *task.collect(model, examples.utterances)))
    with torch.no_grad():
        found = accuracy(model, examples, list(examples))
    assert found == pytest.approx(max(0.0, 1 - error), abs=1e-6)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[sk.Model]:
    """The models whose accuracy is asked for; a mock says 0.5 for all of them."""
    models: list[sk.Model] = []

    def half(model: sk.Model, *_: Any) -> float:
        models.append(model)
        return 0.5

    monkeypatch.setattr(n2n, "accuracy", half)
    return models


@pytest.mark.parametrize("stage", ["removal", "shrinkage"])
@pytest.mark.parametrize("size", ["parameters", "macs"])
def test_the_student_is_smaller_and_the_report_lists_all(
    stage: str, size: str, model: sk.Model, corpus: Corpus, judged: list[sk.Model]
) -> None:
    examples = Examples(model, corpus(6))
    spec = f"n2n:stage={stage},size={size},{SHORT}"
    made, (record,) = transform(model, [spec], examples)
    report = record.report
    assert judged[0] is model
    assert len(judged) == report["tried"] + 2
    assert report["model"][size] == n2n.SIZES[size](model)
    assert report["student"][size] == n2n.SIZES[size](made) < report["model"][size]
    rewards = [each["reward"] for each in report["best"]]
    assert rewards == sorted(rewards, reverse=True)
    for each in report["best"]:
        assert each["reward"] == pytest.approx(reward(1, each[size] / report["model"][size]))
    assert report["best"][0][size] == report["student"][size]
    assert len(report["mean_reward"]) == 2
    again, (other,) = transform(model, [spec], examples)
    assert other.report == report
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in made.state_dict().items())


def test_students_are_trained_on_other_recordings_than_they_are_judged_by(
    model: sk.Model, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, judged: list[sk.Model]
) -> None:
    parts: dict[str, set[Path]] = {}

    def heal(student: sk.Model, teacher: sk.Model, examples: Examples, steps: int) -> None:
        assert teacher is model
        parts["training"] = {each.audio for each in examples.utterances}

    def held_out(model: sk.Model, examples: Examples, batches: Any) -> float:
        parts["held out"] = {each.audio for each in examples.utterances}
        return 1.0

    monkeypatch.setattr(n2n, "heal", heal)
    monkeypatch.setattr(n2n, "accuracy", held_out)
    transform(model, [f"n2n:{SHORT}"], Examples(model, corpus(11)))
    assert len(parts["training"]) == 8
    assert len(parts["held out"]) == 3
    assert not parts["training"] & parts["held out"]


def test_a_student_that_cannot_be_made_has_the_reward_minus_1(
    model: sk.Model, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, judged: list[sk.Model]
) -> None:
    def refuse(model: sk.Model, stays: list[float], seed: int) -> sk.Model:
        if stays[0]:
            raise ConfigError("a test refuses the first sub-block")
        return without(model, stays, seed)

    monkeypatch.setattr(n2n, "without", refuse)
    examples = Examples(model, corpus(6))
    _, (record,) = transform(model, ["n2n:epochs=3,rollouts=4,steps=1,final_steps=1"], examples)
    rewards = {each["choices"][0]: each["reward"] for each in record.report["best"]}
    assert rewards["1"] == -1
    assert rewards["0"] > 0
    monkeypatch.setattr(n2n, "without", lambda *_: refuse(model, [1], 0))
    with pytest.raises(ConfigError, match="students has a reward above 0; give more epochs"):
        transform(model, [f"n2n:{SHORT}"], examples)


def test_what_it_cannot_do_is_one_line(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="n2n needs recordings"):
        transform(model, ["n2n"])
    with pytest.raises(ConfigError, match="n2n: 1 recording; give at least two"):
        transform(model, ["n2n"], Examples(model, corpus(1)))
    with pytest.raises(ComponentError, match="rollouts=0"):
        transform(model, ["n2n:rollouts=0"], Examples(model, corpus(2)))
    with pytest.raises(ComponentError, match="stage"):
        transform(model, ["n2n:stage=both"], Examples(model, corpus(2)))
    rows = [replace(each, text=None, label=None, segments=None) for each in read_manifest(corpus())]
    with pytest.raises(ManifestError):
        transform(model, [f"n2n:{SHORT}"], Examples(model, rows))
    small = sk.build(sk.MatchboxNet(labels=("a", "b"), blocks=(sk.Block(channels=4, kernel=3),)))
    with pytest.raises(ConfigError, match="none can be removed"):
        transform(small, ["n2n"], Examples(small, corpus(2)))
