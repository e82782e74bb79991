"""Loads utterances as batches, in this process or in workers, with identical results."""

import speechkit.torch_required

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from speechkit.config import check_processes
from speechkit.data.augment import Augmentation, Joining, apply, utterance_generator
from speechkit.data.batch import Batch, Item, collate
from speechkit.data.manifest import Utterance
from speechkit.data.shards import ShardUtterance
from speechkit.data.tensors import read_audio
from speechkit.errors import AudioError, ConfigError, ManifestError


class UtteranceDataset(Dataset[Item]):
    """Utterances as audio at `sample_rate` and a target `encode(utterance)`.

    The augmentations of an utterance depend only on (seed, epoch, index). Set `epoch` before each
    pass. `join` says which utterances are read one after another in place of each; augmentations
    then change the whole. `cache` keeps all decoded audio in memory: 230 MB per hour at 16 kHz.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        encode: Callable[[Utterance], Tensor],
        *,
        sample_rate: int = 16000,
        augmentations: Sequence[Augmentation] = (),
        join: Joining | None = None,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        for augmentation in augmentations:
            if augmentation.domain != "audio":
                raise ConfigError(
                    f"{type(augmentation).__name__} works on {augmentation.domain}, not on audio; "
                    "apply it after the front end"
                )
        self.utterances = utterances
        self.encode = encode
        self.sample_rate = sample_rate
        self.augmentations = augmentations
        self.join = join
        self.seed = seed
        self.epoch = 0
        # filled here, not on first use, because a worker process could not share what it reads
        self._decoded = [self._read(u) for u in utterances] if cache else None

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> Item:
        parts = self._parts(index)
        utterance = _joined([self.utterances[part] for part in parts])
        audio = torch.cat([self.audio(part) for part in parts])
        generator = utterance_generator(self.seed, self.epoch, index)
        x, length = apply(self.augmentations, audio[None], len(audio), generator)
        target = self.encode(_stretched(utterance, length / len(audio)))
        return Item(x[0, :length], target, index, str(utterance.audio))

    def utterance(self, index: int) -> Utterance:
        """Utterance `index` of this epoch, with those that are joined to it."""
        return _joined([self.utterances[part] for part in self._parts(index)])

    def audio(self, index: int) -> Tensor:
        """The audio `[N]` of one utterance without augmentation."""
        return self._decoded[index] if self._decoded else self._read(self.utterances[index])

    def _parts(self, index: int) -> list[int]:
        """The utterances of which utterance `index` of this epoch is made."""
        if self.join is None:
            return [index]
        # a generator of its own, so that the other augmentations draw what they draw without it
        generator = utterance_generator(self.seed, self.epoch, index, "utterances")
        return self.join(index, self.utterances, generator)

    def _read(self, utterance: Utterance) -> Tensor:
        if not isinstance(utterance, ShardUtterance):
            return self._decode(utterance.audio, utterance)
        try:
            return self._decode(utterance.read_bytes(), utterance)
        except AudioError as error:
            # an error about bytes does not name the file
            raise AudioError(f"{utterance.audio}: {error}") from error

    def _decode(self, source: Path | bytes, utterance: Utterance) -> Tensor:
        return read_audio(
            source,
            target_rate=self.sample_rate,
            offset_s=utterance.offset_s,
            duration_s=utterance.duration_s,
        )


def batches(
    dataset: UtteranceDataset, plan: Sequence[list[int]], workers: int, start: int = 0
) -> Iterator[Batch]:
    """The batches of `plan` (lists of indices) from number `start` on, in order.

    `workers` processes read ahead; 0 reads in this process. An exception of a worker is raised
    unchanged.
    """
    check_processes("workers", workers, 0)
    loader = DataLoader(
        _Plan(dataset, plan[start:]),
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        # without this it would draw from the global generator, which must stay equal on resuming
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


class _Plan(Dataset[Batch | Exception]):
    """One sample per batch; an error is a value, since DataLoader would rewrite a raised one."""

    def __init__(self, dataset: UtteranceDataset, plan: Sequence[list[int]]) -> None:
        self.dataset = dataset
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Batch | Exception:
        try:
            return collate([self.dataset[index] for index in self.plan[number]])
        except (AudioError, ManifestError) as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _joined(parts: Sequence[Utterance]) -> Utterance:
    """Utterances one after another: texts and phones are joined by a space, segments are moved.

    The whole has none of what one of the parts has not. A label is of one utterance only.
    """
    if len(parts) == 1:
        return parts[0]
    starts_s = [0.0, *accumulate(part.duration_s for part in parts)]
    segments = [
        part.segments and tuple((start + from_s, end + from_s) for start, end in part.segments)
        for part, from_s in zip(parts, starts_s, strict=False)
    ]
    known = [row for row in segments if row is not None]
    return replace(
        parts[0],
        duration_s=starts_s[-1],
        text=_in_one_line([part.text for part in parts]),
        phones=_in_one_line([part.phones for part in parts]),
        label=None,
        segments=tuple(chain(*known)) if len(known) == len(parts) else None,
    )


def _in_one_line(texts: Sequence[str | None]) -> str | None:
    known = [text for text in texts if text is not None]
    return " ".join(filter(None, known)) if len(known) == len(texts) else None


def _stretched(utterance: Utterance, factor: float) -> Utterance:
    """The utterance after its audio became `factor` times as long."""
    if factor == 1:
        return utterance
    segments = utterance.segments
    if segments is not None:
        segments = tuple((start * factor, end * factor) for start, end in segments)
    return replace(utterance, duration_s=utterance.duration_s * factor, segments=segments)
