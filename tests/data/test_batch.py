"""Batches: padding, and plans that hold every utterance once within the limits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechkit.data.batch import Item, bucket_batches, collate
from speechkit.errors import ConfigError


def item(samples: int, target: torch.Tensor, index: int = 0) -> Item:
    return Item(torch.ones(samples), target, index, f"{index}.wav")


def test_label_ids_are_padded_and_counted() -> None:
    batch = collate([item(3, torch.tensor([4, 5]), 7), item(5, torch.tensor([6]), 2)])
    assert batch.audio.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.lengths.tolist() == [3, 5]
    assert batch.lengths.dtype == torch.int64
    assert isinstance(batch.targets, torch.Tensor)
    assert batch.targets.tolist() == [[4, 5], [6, 0]]
    assert batch.target_lengths is not None
    assert batch.target_lengths.tolist() == [2, 1]
    assert batch.indices == [7, 2]
    assert batch.names == ["7.wav", "2.wav"]


def test_an_empty_transcript_is_a_target() -> None:
    batch = collate([item(3, torch.zeros(0, dtype=torch.int64)), item(3, torch.tensor([1]))])
    assert batch.target_lengths is not None
    assert batch.target_lengths.tolist() == [0, 1]


def test_classes_are_one_number_each() -> None:
    batch = collate([item(3, torch.tensor(4)), item(5, torch.tensor(1))])
    assert isinstance(batch.targets, torch.Tensor)
    assert batch.targets.tolist() == [4, 1]
    assert batch.target_lengths is None


def test_segments_stay_apart() -> None:
    segments = torch.tensor([[0.1, 0.5], [0.7, 0.9]]), torch.zeros(0, 2)
    batch = collate([item(3, target) for target in segments])
    assert all(a is b for a, b in zip(batch.targets, segments, strict=True))
    assert batch.target_lengths is None


@given(
    durations_s=st.lists(st.floats(0.1, 20), max_size=60),
    batch_size=st.none() | st.integers(1, 9),
    batch_seconds=st.none() | st.floats(20, 90),
    epoch=st.integers(0, 5),
    shuffle=st.booleans(),
    buckets=st.integers(1, 30),
)
def test_every_index_once_and_limits_kept(
    durations_s: list[float],
    batch_size: int | None,
    batch_seconds: float | None,
    epoch: int,
    shuffle: bool,
    buckets: int,
) -> None:
    if batch_size is None and batch_seconds is None:
        batch_size = 4

    def plan() -> list[list[int]]:
        return bucket_batches(
            durations_s,
            batch_size=batch_size,
            batch_seconds=batch_seconds,
            seed=1,
            epoch=epoch,
            shuffle=shuffle,
            buckets=buckets,
        )

    batches = plan()
    assert batches == plan()
    assert sorted(index for batch in batches for index in batch) == list(range(len(durations_s)))
    for batch in batches:
        assert batch
        assert len(batch) <= (batch_size or len(batch))
        padded_s = max(durations_s[index] for index in batch) * len(batch)
        assert padded_s <= (batch_seconds or padded_s)


DURATIONS_S = [1 + (37 * i % 1000) / 100 for i in range(1000)]


def plan_of(**options: int | bool) -> list[list[int]]:
    defaults = {"batch_size": 16, "batch_seconds": None, "seed": 0, "epoch": 0}
    return bucket_batches(DURATIONS_S, **(defaults | options))  # type: ignore[arg-type]


def test_similar_durations_go_together() -> None:
    padded_s = sum(max(DURATIONS_S[i] for i in batch) * len(batch) for batch in plan_of())
    assert padded_s / sum(DURATIONS_S) < 1.1
    assert len(plan_of()) == 63


def test_epochs_and_seeds_differ_in_batches_and_their_order() -> None:
    first, second, other = plan_of(), plan_of(epoch=1), plan_of(seed=1)
    for plan in (second, other):
        assert {frozenset(batch) for batch in plan} != {frozenset(batch) for batch in first}
    # with one utterance to a bucket, only the batches are shuffled
    longest_s = [max(DURATIONS_S[i] for i in batch) for batch in plan_of(buckets=1000)]
    assert longest_s != sorted(longest_s)


def test_without_shuffling_the_order_is_by_duration() -> None:
    order = [i for batch in plan_of(shuffle=False) for i in batch]
    assert order == sorted(range(1000), key=lambda i: DURATIONS_S[i])


@pytest.mark.parametrize(
    ("batch_size", "batch_seconds", "message"),
    [
        (None, None, "a batch has no limit; give batch_size or batch_seconds"),
        (0, None, "batch_size=0 is too small"),
        (None, 5.0, "utterance 1 lasts 9 s, more than batch_seconds=5; raise it"),
    ],
)
def test_bad_limits_are_refused(
    batch_size: int | None, batch_seconds: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        bucket_batches([1, 9], batch_size=batch_size, batch_seconds=batch_seconds, seed=0, epoch=0)


def test_equal_durations_are_mixed_across_the_manifest() -> None:
    plan = bucket_batches(
        [1.0] * 64, batch_size=8, batch_seconds=None, seed=0, epoch=0, shuffle=True
    )
    assert max(len({index // 32 for index in batch}) for batch in plan) == 2
    spans = [max(batch) - min(batch) for batch in plan]
    assert min(spans) > 16


def test_small_corpora_are_not_cut_into_groups_narrower_than_some_batches() -> None:
    durations_s = [1 + index / 100 for index in range(100)]
    plan = bucket_batches(
        durations_s, batch_size=10, batch_seconds=None, seed=0, epoch=0, shuffle=True
    )
    assert max(max(batch) - min(batch) for batch in plan) > 40
