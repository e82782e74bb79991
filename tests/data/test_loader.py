"""The loader: the same bits however many workers, and errors as they were raised."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from speechkit.data.augment import AdditiveNoise, Reverb, SpecAugment, Speed, WhiteNoise
from speechkit.data.batch import Batch
from speechkit.data.loader import UtteranceDataset, batches
from speechkit.data.manifest import Utterance
from speechkit.errors import AudioError, ConfigError

# a machine with fewer cores than a test has workers
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

PLAN = [[0, 3], [1, 4, 5], [2]]


def encode(utterance: Utterance) -> Tensor:
    assert utterance.text is not None
    return torch.tensor([ord(letter) for letter in utterance.text])


def encode_segments(utterance: Utterance) -> Tensor:
    return torch.tensor(utterance.segments)


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    chance = np.random.default_rng(0)
    rows = []
    for i in range(6):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, chance.uniform(-0.3, 0.3, 4000 + 400 * i), 8000)
        rows.append(Utterance(audio=path, duration_s=0.5 + 0.05 * i, text="abc"[: 1 + i % 3]))
    return rows


def same(a: Batch, b: Batch) -> bool:
    tensors = ("audio", "lengths", "targets", "target_lengths")
    return (a.indices, a.names) == (b.indices, b.names) and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in tensors
    )


def augmented(utterances: list[Utterance], tmp_path: Path, cache: bool = False) -> UtteranceDataset:
    for kind in ("noise", "rooms"):
        (tmp_path / kind).mkdir(exist_ok=True)
        soundfile.write(tmp_path / kind / "a.wav", np.geomspace(0.5, 1e-3, 2000), 16000)
    return UtteranceDataset(
        utterances,
        encode,
        augmentations=[
            Speed(),
            Reverb(str(tmp_path / "rooms"), probability=0.5),
            AdditiveNoise(str(tmp_path / "noise")),
            WhiteNoise(),
        ],
        seed=3,
        cache=cache,
    )


def test_batches_hold_the_planned_utterances(utterances: list[Utterance]) -> None:
    got = list(batches(UtteranceDataset(utterances, encode), PLAN, workers=0))
    assert [batch.indices for batch in got] == PLAN
    assert got[0].lengths.tolist() == [8000, 10400]
    assert got[0].audio.shape == (2, 10400)
    assert isinstance(got[1].targets, Tensor)
    assert got[1].targets.tolist() == [[97, 98, 0], [97, 98, 0], [97, 98, 99]]
    assert got[2].names == [str(utterances[2].audio)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_changes_nothing(
    utterances: list[Utterance], tmp_path: Path, workers: int
) -> None:
    dataset = augmented(utterances, tmp_path)
    for dataset.epoch in (0, 1):
        alone = list(batches(dataset, PLAN, workers=0))
        shared = list(batches(dataset, PLAN, workers=workers))
        assert len(alone) == len(shared)
        assert all(map(same, alone, shared))


def test_an_utterance_depends_on_seed_epoch_and_index_only(
    utterances: list[Utterance], tmp_path: Path
) -> None:
    dataset = augmented(utterances, tmp_path)
    first = dataset[4]
    assert torch.equal(first.audio, dataset[4].audio)
    [batch] = batches(dataset, [[2, 4]], workers=0)
    assert torch.equal(batch.audio[1, : batch.lengths[1]], first.audio)
    dataset.epoch = 1
    assert not torch.equal(first.audio[:7000], dataset[4].audio[:7000])


def test_starting_in_the_middle_gives_the_rest(utterances: list[Utterance], tmp_path: Path) -> None:
    dataset = augmented(utterances, tmp_path)
    whole, rest = (list(batches(dataset, PLAN, 0, start)) for start in (0, 1))
    assert len(rest) == 2
    assert all(map(same, whole[1:], rest))


def test_the_cache_changes_nothing_and_needs_no_files(
    utterances: list[Utterance], tmp_path: Path
) -> None:
    plain, cached = (augmented(utterances, tmp_path, cache) for cache in (False, True))
    expected = list(batches(plain, PLAN, workers=0))
    for utterance in utterances:
        utterance.audio.unlink()
    assert all(map(same, expected, batches(cached, PLAN, workers=0)))
    # nor did the augmentations change what is cached
    assert all(map(same, expected, batches(cached, PLAN, workers=2)))


def test_the_offset_and_duration_of_an_utterance_are_kept(utterances: list[Utterance]) -> None:
    whole = UtteranceDataset(utterances, encode, sample_rate=8000)[5].audio
    part = replace(utterances[5], offset_s=0.25, duration_s=0.125)
    assert torch.equal(
        UtteranceDataset([part], encode, sample_rate=8000)[0].audio, whole[2000:3000]
    )


def test_speed_moves_the_segments(utterances: list[Utterance]) -> None:
    row = replace(utterances[0], segments=((0.1, 0.2), (0.3, 0.5)))
    dataset = UtteranceDataset([row], encode_segments, augmentations=[Speed(0.8, 0.8)])
    expected = torch.tensor(row.segments) / 0.8
    torch.testing.assert_close(dataset[0].target, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_named_in_one_line(utterances: list[Utterance], workers: int) -> None:
    utterances[4].audio.write_bytes(b"no sound")
    loaded = batches(UtteranceDataset(utterances, encode), PLAN, workers)
    assert next(loaded).indices == [0, 3]
    with pytest.raises(AudioError, match=r"^cannot decode \S*4.wav: [^\n]*$"):
        next(loaded)


def test_leaving_early_ends_the_workers(utterances: list[Utterance]) -> None:
    loaded = batches(UtteranceDataset(utterances, encode), PLAN * 20, workers=2)
    next(loaded)
    assert len(multiprocessing.active_children()) == 2
    loaded.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_an_augmentation_of_features_is_refused(utterances: list[Utterance]) -> None:
    with pytest.raises(ConfigError, match="SpecAugment works on features, not on audio"):
        UtteranceDataset(utterances, encode, augmentations=[SpecAugment()])


class Pairs:
    """Each utterance, then the one before it."""

    domain: ClassVar[Literal["utterances"]] = "utterances"

    def __call__(
        self, index: int, utterances: Sequence[Utterance], generator: torch.Generator
    ) -> list[int]:
        return [index, index - 1] if index else [0]


@pytest.mark.parametrize("cache", [False, True])
def test_joined_utterances_are_one_with_both_sounds_and_texts(
    utterances: list[Utterance], cache: bool
) -> None:
    dataset = UtteranceDataset(utterances, encode, join=Pairs(), cache=cache)
    item = dataset[2]
    assert torch.equal(item.audio, torch.cat([dataset.audio(2), dataset.audio(1)]))
    assert item.target.tolist() == list(map(ord, "abc ab"))
    assert (item.index, item.name) == (2, str(utterances[2].audio))
    assert dataset.utterance(2).duration_s == pytest.approx(1.15)
    assert dataset.utterance(0) is utterances[0]


def test_augmentations_change_joined_utterances_as_one(utterances: list[Utterance]) -> None:
    rows = [replace(u, segments=((0.1, 0.2),)) for u in utterances]
    dataset = UtteranceDataset(
        rows, encode_segments, join=Pairs(), augmentations=[Speed(min=2, max=2)]
    )
    item = dataset[1]
    assert len(item.audio) == pytest.approx(16000 * 1.05 / 2, abs=2)
    expected = torch.tensor([[0.05, 0.1], [0.325, 0.375]])
    torch.testing.assert_close(item.target, expected, rtol=1e-4, atol=1e-4)


def test_what_one_part_lacks_the_whole_lacks(utterances: list[Utterance]) -> None:
    rows = [replace(u, phones="A B", label="x", segments=()) for u in utterances]
    rows[3] = replace(rows[3], text=None, phones=None, segments=None)
    rows[0] = replace(rows[0], text="")
    dataset = UtteranceDataset(rows, encode, join=Pairs())
    whole = dataset.utterance(2)
    assert (whole.phones, whole.label, whole.segments) == ("A B A B", None, ())
    assert dataset.utterance(1).text == "ab"
    for index in (3, 4):
        assert dataset.utterance(index).unlabeled
        assert dataset.utterance(index).phones is None
