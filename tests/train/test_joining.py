"""Utterances that training reads one after another, with their texts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file

from speechkit.component import Component
from speechkit.data import Utterance, UtteranceDataset, read_manifest, write_manifest, write_shards
from speechkit.errors import ComponentError, TrainingError
from speechkit.hookspecs import hookimpl
from speechkit.models import build
from speechkit.plugins import registry
from speechkit.tasks import task_of
from speechkit.train import Data, Run, dry_run, fit
from speechkit.train.batches import endless_batches, run_augmentations, training_utterances
from speechkit.train.resume import LAST, Loop


@dataclass
class Follow:
    """The utterance, then one drawn with a probability if both last no longer than allowed."""

    max_duration_s: float
    probability: float = 1.0
    domain: ClassVar[Literal["utterances"]] = "utterances"

    def __call__(
        self, index: int, utterances: Sequence[Utterance], generator: torch.Generator
    ) -> list[int]:
        if torch.rand((), generator=generator) >= self.probability:
            return [index]
        other = int(torch.randint(len(utterances), (), generator=generator))
        lasts_s = utterances[index].duration_s + utterances[other].duration_s
        return [index, other] if lasts_s <= self.max_duration_s else [index]


@pytest.fixture(autouse=True)
def follow() -> Iterator[None]:
    plugin = ModuleType("acme")
    names = {"follow": Follow, "follow_again": Follow}
    made = [Component(name=n, factory=f, summary="Joins", formula="x") for n, f in names.items()]
    plugin.speechkit_augmentations = hookimpl(lambda: made)  # type: ignore[attr-defined]
    registry().add(plugin, "acme")
    yield
    registry()._forget(plugin, "acme")


@pytest.fixture
def run(nets: dict[str, Any], corpus: Callable[..., Path]) -> Run:
    """A few steps of recognition, with everything that draws random numbers."""
    return Run(
        model=replace(nets["ctc"], dropout=0.2),
        data=Data(train=corpus(8, "train"), dev=corpus(4, "dev"), batch_size=3),
        steps=5,
        optimizer="adamw:lr=0.01",
        schedule="constant",
        augment=("follow:probability=0.5", "speed", "white_noise", "spec_augment"),
        save_every=1,
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / LAST / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def dataset_of(run: Run) -> UtteranceDataset:
    join, audio, _ = run_augmentations(run)
    encode = task_of(build(run.model)).encode
    train = training_utterances(run.data)
    return UtteranceDataset(train, encode, join=join, augmentations=audio, seed=run.seed)


def first_batches(run: Run, count: int) -> list[Any]:
    found = endless_batches(
        dataset_of(run), run, Loop(), SimpleNamespace(world_size=1, global_rank=0)
    )
    return [next(found) for _ in range(count)]


def test_utterances_that_stay_alone_train_as_without_it(run: Run, tmp_path: Path) -> None:
    alone = replace(run, augment=("follow:probability=0", *run.augment[1:]))
    without = replace(run, augment=run.augment[1:])
    for name, each in {"joined": run, "alone": alone, "without": without}.items():
        fit(each, tmp_path / name, device="cpu")
    assert same(tmp_path / "alone", tmp_path / "without")
    assert not same(tmp_path / "joined", tmp_path / "without")


def test_a_domain_that_is_none_is_refused_before_training(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Follow, "domain", "sound")
    for go in (lambda: fit(run, tmp_path / "out", device="cpu"), lambda: dry_run(run)):
        with pytest.raises(ComponentError) as error:
            go()
        assert str(error.value) == (
            "augmentation follow:probability=0.5: its domain is 'sound'; give one of audio, "
            "features, utterances"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_with_joined_utterances_goes_on_bit_by_bit(
    run: Run, tmp_path: Path, steps: int
) -> None:
    fit(run, tmp_path / "whole", device="cpu")
    fit(replace(run, steps=steps), tmp_path / "parts", device="cpu")
    fit(run, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_the_cache_and_workers_change_nothing(run: Run, tmp_path: Path) -> None:
    fit(run, tmp_path / "plain", device="cpu")
    cached = replace(run, data=replace(run.data, cache=True, workers=1))
    fit(cached, tmp_path / "cached", device="cpu")
    assert same(tmp_path / "plain", tmp_path / "cached")


def test_utterances_of_shards_are_joined(run: Run, tmp_path: Path) -> None:
    rows = read_manifest(run.data.train)  # type: ignore[arg-type]
    write_shards(rows, tmp_path / "shards", 1e-3)
    run = replace(run, augment=("follow",), data=replace(run.data, train=tmp_path / "shards"))
    dataset = dataset_of(run)
    for index in range(len(dataset)):
        whole, item = dataset.utterance(index), dataset[index]
        assert len(whole.text or "") == len(item.target) == 5
        assert whole.duration_s == pytest.approx(len(item.audio) / 16000)
    assert sum(len(batch.indices) for batch in first_batches(run, 3)) == 8


def test_batches_are_planned_by_what_utterances_last_together(run: Run) -> None:
    data = replace(run.data, batch_size=None, batch_seconds=1.1)
    run = replace(run, augment=("follow",), data=data)
    found = first_batches(run, 12)
    # of 0.4 to 0.54 s each: two that are joined last 0.8 to 1.1 s
    assert 0.8 * 16000 <= max(batch.audio.numel() for batch in found) <= 1.1 * 16000


def test_no_pair_lasts_longer_than_a_training_utterance_may(run: Run) -> None:
    run = replace(run, augment=("follow",), data=replace(run.data, max_duration_s=0.9))
    lasts_s = [u.duration_s for u in map(dataset_of(run).utterance, range(8))]
    assert 0.8 <= max(lasts_s) <= 0.9
    assert min(lasts_s) < 0.6


@pytest.mark.parametrize("start", [partial(fit, device="cpu"), lambda run, out: dry_run(run)])
def test_texts_that_are_too_long_together_are_found_before_training(
    run: Run, tmp_path: Path, start: Callable[[Run, Path], object]
) -> None:
    utterances = read_manifest(run.data.train)  # type: ignore[arg-type]
    # 20 frames of 20 ms hold 20 labels, but not those of two texts and a space between them
    shortest = replace(utterances[0], text="hi" * 10)
    write_manifest(run.data.train, [shortest] * 4)  # type: ignore[arg-type]
    start(replace(run, augment=()), tmp_path / "alone")
    name = shortest.audio.name
    message = rf"4 of 4 utterances are too short.*{name}: 41 labels in 40 frames of 20 ms; "
    with pytest.raises(TrainingError, match=message):
        start(replace(run, augment=("follow",)), tmp_path / "out")


@pytest.mark.parametrize(
    ("net", "changes", "message"),
    [
        ("clip", {"augment": ("follow",)}, "Follow joins utterances, and a matchboxnet gives each"),
        ("ctc", {"augment": ("follow", "follow_again")}, "Follow and Follow all join utterances"),
        ("ctc", {"augment": ("follow",), "method": ("phones:after=0",)}, "phones of single utter"),
    ],
)
def test_what_cannot_be_joined_is_refused_in_a_line(
    run: Run, nets: dict[str, Any], net: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        dry_run(replace(run, model=nets[net], **changes))
    assert "\n" not in str(caught.value)


def test_speech_in_frames_is_that_of_all_parts(run: Run, nets: dict[str, Any]) -> None:
    run = replace(run, model=nets["frame"], augment=("follow",))
    dataset = dataset_of(run)
    for index in range(len(dataset)):
        own_s = dataset.utterances[index].duration_s
        expected = torch.tensor([[0.1, 0.4], [own_s + 0.1, own_s + 0.4]])
        torch.testing.assert_close(dataset[index].target.float(), expected)
    fit(replace(run, steps=2), run.data.dev.parent / "out", device="cpu")
