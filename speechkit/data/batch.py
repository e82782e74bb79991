"""Batches: which utterances go together, and how they become tensors."""

import speechkit.torch_required

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.errors import ConfigError

MIX = 8
"""The fewest batches in a group of similar durations. In smaller groups the same few utterances
would share a batch in every epoch, and batch norm would learn their statistics."""


@dataclass(frozen=True)
class Item:
    """One utterance: audio `[N]`, its target, its index in the manifest and its file name."""

    audio: Tensor
    target: Tensor
    index: int
    name: str


class Batch(NamedTuple):
    """Utterances padded with zeros to the longest.

    Shape: audio `[B, N]` float32, lengths `[B]` int64. The targets are label ids `[B, U]` with
    target_lengths `[B]`; or one class each, `[B]`; or a tuple of speech segments `[S, 2]` in
    seconds. The last two have no target_lengths.
    """

    audio: Tensor
    lengths: Tensor
    targets: Tensor | tuple[Tensor, ...]
    target_lengths: Tensor | None
    indices: list[int]
    names: list[str]

    def repeated(self, times: int) -> "Batch":
        """The batch with its rows repeated `times` times, one copy of the batch after the other."""
        if times == 1:
            return self
        targets, target_lengths = self.targets, self.target_lengths
        return Batch(
            audio=self.audio.repeat(times, 1),
            lengths=self.lengths.repeat(times),
            targets=torch.cat([targets] * times)
            if isinstance(targets, Tensor)
            else targets * times,
            target_lengths=None if target_lengths is None else target_lengths.repeat(times),
            indices=self.indices * times,
            names=self.names * times,
        )


def collate(items: Sequence[Item]) -> Batch:
    """Makes a batch of items whose targets are all `[U]`, all scalars or all `[S, 2]`."""
    targets: Tensor | tuple[Tensor, ...] = tuple(item.target for item in items)
    target_lengths = None
    if items[0].target.ndim == 0:
        targets = torch.stack([item.target for item in items])
    elif items[0].target.ndim == 1:
        target_lengths = torch.tensor([len(item.target) for item in items])
        targets = pad_sequence([item.target for item in items], batch_first=True)
    return Batch(
        audio=pad_sequence([item.audio for item in items], batch_first=True),
        lengths=torch.tensor([len(item.audio) for item in items]),
        targets=targets,
        target_lengths=target_lengths,
        indices=[item.index for item in items],
        names=[item.name for item in items],
    )


def bucket_batches(
    durations_s: Sequence[float],
    *,
    batch_size: int | None,
    batch_seconds: float | None,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    buckets: int = 20,
) -> list[list[int]]:
    """Batches of similar durations that hold every index once; a function of seed and epoch.

    A batch has at most `batch_size` utterances and, padded to its longest, at most `batch_seconds`
    seconds; None is no limit. Indices are shuffled within `buckets` groups of similar durations
    (fewer where a group would hold less than MIX batches). Then the order of the batches is
    shuffled. Without `shuffle` they are sorted by duration.
    """
    _check_limits(durations_s, batch_size, batch_seconds)
    chance = random.Random(f"{seed}/{epoch}")
    order = list(range(len(durations_s)))
    if shuffle:
        # equal durations must not keep the manifest's order, which is often sorted by label
        chance.shuffle(order)
    order.sort(key=lambda i: durations_s[i])
    if shuffle:
        width = max(-(-len(order) // buckets), MIX * (batch_size or 1))
        order = _shuffled_within(order, width, chance)
    batches = list(_filled(order, durations_s, batch_size, batch_seconds))
    if shuffle:
        chance.shuffle(batches)
    return batches


def share(batches: Sequence[list[int]], rank: int, processes: int) -> list[list[int]]:
    """The rows of each batch for process `rank`: rank, rank + processes and so on.

    A batch with fewer rows than processes goes to each process in full. So all processes have the
    same number of batches, and each row has the same weight.
    """
    return [rows[rank::processes] if len(rows) >= processes else rows for rows in batches]


def _check_limits(
    durations_s: Sequence[float], batch_size: int | None, batch_seconds: float | None
) -> None:
    if batch_size is None and batch_seconds is None:
        raise ConfigError("a batch has no limit; give batch_size or batch_seconds")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} is too small; give at least 1")
    longest_s = max(durations_s, default=0.0)
    if batch_seconds is not None and longest_s > batch_seconds:
        raise ConfigError(
            f"utterance {list(durations_s).index(longest_s)} lasts {longest_s:g} s, more than "
            f"batch_seconds={batch_seconds:g}; raise it or leave long utterances out"
        )


def _shuffled_within(order: list[int], width: int, chance: random.Random) -> list[int]:
    shuffled = []
    for start in range(0, len(order), max(1, width)):
        bucket = order[start : start + width]
        chance.shuffle(bucket)
        shuffled += bucket
    return shuffled


def _filled(
    order: list[int],
    durations_s: Sequence[float],
    batch_size: int | None,
    batch_seconds: float | None,
) -> Iterator[list[int]]:
    """Cuts `order` where one more utterance would exceed a limit."""
    batch: list[int] = []
    longest_s = 0.0
    for index in order:
        longest_s = max(longest_s, durations_s[index])
        full = batch_size is not None and len(batch) == batch_size
        if batch_seconds is not None and longest_s * (len(batch) + 1) > batch_seconds:
            full = True
        if batch and full:
            yield batch
            batch, longest_s = [], durations_s[index]
        batch.append(index)
    if batch:
        yield batch
