"""The utterances for a probe or a transform."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from speechkit.data import (
    Batch,
    Utterance,
    UtteranceDataset,
    batches,
    bucket_batches,
    utterances_of,
)
from speechkit.errors import ManifestError
from speechkit.models import Model, Output, evaluating
from speechkit.nn import Chunk
from speechkit.plugins import calling, registry
from speechkit.tasks import Targets, task_of


class Examples:
    """Utterances as batches and a model's features of them, in the same order each time.

        for batch, features in examples:
            losses = examples.loss(model.score(features), batch)

    `utterances` are those of the manifest, `seed` is for random choices. Raises ManifestError for
    an empty manifest. Utterances need targets only for `loss` and `targets`.
    """

    def __init__(
        self,
        model: Model,
        manifest: Path | str | Sequence[Utterance],
        *,
        seed: int = 0,
        batch_size: int = 8,
    ) -> None:
        self.model, self.seed, self.batch_size = model, seed, batch_size
        self.utterances = utterances_of(manifest)
        if not self.utterances:
            raise ManifestError("no utterances to look at; give at least one")
        self._task = task_of(model)
        self._without_target = self._first_without_target()
        self._dataset = UtteranceDataset(
            self.utterances, self._encode, sample_rate=model.sample_rate
        )

    def of(self, model: Model) -> "Examples":
        """The same utterances for another model."""
        return type(self)(model, self.utterances, seed=self.seed, batch_size=self.batch_size)

    @property
    def batches(self) -> Iterator[Batch]:
        """The batches, sorted by duration, on the model's device."""
        return self._batches()

    def __iter__(self) -> Iterator[tuple[Batch, Chunk]]:
        """Each batch and the front end's features of it in evaluation, `[B, F, T]`."""
        return map(self._with_features, self.batches)

    def shuffled(self) -> Iterator[tuple[Batch, Chunk]]:
        """Batches of random utterances and their features, without end, for training: each pass has
        another order, drawn by the seed."""
        for epoch in count():
            yield from map(self._with_features, self._batches(epoch))

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """The loss of the model's task for each row, `[B]`; raises ManifestError for a row without
        a target."""
        loss = registry().build("loss", self._task.loss)
        losses: Tensor = loss(output.scores, output.lengths, *self.targets(output, batch))
        return losses

    def targets(self, output: Output, batch: Batch) -> Targets:
        """The targets of the model's task and their lengths `[B]`; raises ManifestError for a row
        without a target."""
        if self._without_target is not None:
            raise self._without_target
        with calling(self._task.component, "targets"):
            return self._task.targets(batch, output)

    def clips(self, count: int) -> list[Tensor]:
        """The audio `[N]` of `count` utterances, or of all if they are fewer, drawn by the seed, on
        the model's device."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(len(self.utterances), generator=generator)[:count]
        return [self._dataset.audio(index).to(self._device) for index in drawn.tolist()]

    def _batches(self, epoch: int | None = None) -> Iterator[Batch]:
        """Those of a shuffled pass, or sorted by duration if None."""
        plan = bucket_batches(
            [u.duration_s for u in self.utterances],
            batch_size=self.batch_size,
            batch_seconds=None,
            seed=self.seed,
            epoch=epoch or 0,
            shuffle=epoch is not None,
            # batches of one duration would be unlike those whose statistics norms need
            buckets=1,
        )
        for batch in batches(self._dataset, plan, workers=0):
            audio, lengths = batch.audio.to(self._device), batch.lengths.to(self._device)
            yield batch._replace(audio=audio, lengths=lengths)

    def _with_features(self, batch: Batch) -> tuple[Batch, Chunk]:
        with evaluating(self.model), torch.no_grad():
            return batch, self.model.features(batch.audio, batch.lengths)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _encode(self, utterance: Utterance) -> Tensor:
        return self._task.encode(utterance) if self._without_target is None else torch.zeros(0)

    def _first_without_target(self) -> ManifestError | None:
        for utterance in self.utterances:
            try:
                with calling(self._task.component, "encode"):
                    self._task.encode(utterance)
            except ManifestError as error:
                return error
        return None
