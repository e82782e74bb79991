"""The batches of a run: utterances, their order, features and augmentations."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.component import Spec
from speechkit.data import (
    Batch,
    Joining,
    Utterance,
    UtteranceDataset,
    apply,
    are_shards,
    batches,
    bucket_batches,
    read_manifest,
    read_shards,
    share,
    utterance_generator,
    windows,
)
from speechkit.data.augment import DOMAINS
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model
from speechkit.nn import Chunk
from speechkit.plugins import offered, registry
from speechkit.train.distributed import warn
from speechkit.train.preflight import built
from speechkit.train.resume import Loop
from speechkit.train.run import Data, Run


def training_utterances(data: Data) -> list[Utterance]:
    """The utterances of all training manifests and shards, without those that are too long."""
    paths = (data.train,) if isinstance(data.train, Path) else data.train
    found = [
        u for path in paths for u in (read_shards if are_shards(path) else read_manifest)(path)
    ]
    train = [u for u in found if u.duration_s <= data.max_duration_s]
    if 0 < len(train) < len(found):
        left_out_s = sum(u.duration_s for u in found if u.duration_s > data.max_duration_s)
        warn(
            f"{len(found) - len(train)} of {len(found)} utterances, {left_out_s / 3600:.2g} hours, "
            f"are longer than max_duration_s={data.max_duration_s:g} and left out"
        )
    if train:
        return train
    raise TrainingError(
        f"every utterance of {', '.join(map(str, paths)) or 'no manifest'} is longer than "
        f"max_duration_s={data.max_duration_s:g}; raise it"
    )


def endless_batches(
    dataset: UtteranceDataset, run: Run, loop: Loop, fabric: Any
) -> Iterator[Batch]:
    """This process's share of the batches from the loop's position on, epoch after epoch.

    `loop` counts the batches that were yielded.
    """
    data, processes = run.data, fabric.world_size
    while True:
        dataset.epoch = loop.epoch
        durations_s = [dataset.utterance(index).duration_s for index in range(len(dataset))]
        plan = [
            [window[row] for row in rows]
            for window in windows(dataset.utterances, data.window, run.seed, loop.epoch)
            for rows in bucket_batches(
                [durations_s[index] for index in window],
                batch_size=data.batch_size and data.batch_size * processes,
                batch_seconds=data.batch_seconds and data.batch_seconds * processes,
                seed=run.seed,
                epoch=loop.epoch,
                buckets=data.buckets,
            )
        ]
        mine = share(plan, fabric.global_rank, processes)
        for batch in batches(dataset, mine, data.workers, start=loop.batch):
            loop.batch += 1
            yield batch
        loop.epoch, loop.batch = loop.epoch + 1, 0


def batch_features(
    model: Model, batch: Batch, augmentations: list[Any], seed: int, epoch: int
) -> Chunk:
    """The features of a batch; each row is augmented with its own generator.

    They have gradients only if the front end has weights to train.
    """
    device = next(model.parameters()).device
    learns = any(weight.requires_grad for weight in model.frontend.parameters())
    with torch.set_grad_enabled(learns):
        c = model.features(batch.audio.to(device), batch.lengths.to(device))
    if not augmentations:
        return c
    rows = []
    views: Counter[int] = Counter()
    for row, length, index in zip(c.x.cpu(), c.lengths.tolist(), batch.indices, strict=True):
        generator = utterance_generator(seed, epoch, index, "features", views[index])
        views[index] += 1
        changed, frames = apply(augmentations, row, length, generator)
        rows.append(changed[:, :frames].T)
    x = pad_sequence(rows, batch_first=True).transpose(1, 2).to(device)
    return Chunk.of(x, torch.tensor([len(row) for row in rows], device=device))


def run_augmentations(run: Run) -> tuple[Joining | None, list[Any], list[Any]]:
    """The run's augmentation that joins utterances, those of audio and those of features.

    They receive the sample rate, and the most that an utterance may last, if they take it.
    """
    found: dict[str, list[Any]] = {domain: [] for domain in DOMAINS}
    most_s = min(run.data.max_duration_s, run.data.batch_seconds or math.inf)
    for spec in map(Spec.parse, run.augment):
        factory = registry().find("augmentation", spec.name).factory()
        given = offered(factory, sample_rate=run.model.sample_rate, max_duration_s=most_s)
        augmentation = built("augmentation", spec, **given)
        if augmentation.domain not in DOMAINS:
            raise ComponentError(
                f"augmentation {spec}: its domain is {augmentation.domain!r}; give one of "
                f"{', '.join(DOMAINS)}"
            )
        found[augmentation.domain].append(augmentation)
    if len(joins := found["utterances"]) > 1:
        names = " and ".join(type(join).__name__ for join in joins)
        raise TrainingError(f"{names} all join utterances; give one of them in augment")
    return next(iter(joins), None), found["audio"], found["features"]


def spread_audio(dataset: UtteranceDataset, most: int = 200) -> Iterator[Tensor]:
    """Audio `[N]` of utterances spread over the training set, unaugmented."""
    every = max(1, len(dataset) // most)
    for index in range(0, len(dataset), every):
        yield dataset.audio(index)
