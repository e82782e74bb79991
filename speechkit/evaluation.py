"""How well a model does on a manifest."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from speechkit.checkpoint import ModelSource, as_model
from speechkit.data import (
    Batch,
    Utterance,
    UtteranceDataset,
    batches,
    bucket_batches,
    read_manifest,
)
from speechkit.models import Model, Output, evaluating
from speechkit.tasks import Task, task_of


def evaluate(
    model: ModelSource,
    manifest: Path | str | Sequence[Utterance],
    batch_size: int = 32,
    workers: int = 0,
) -> dict[str, Any]:
    """The number of utterances `n` and the task's figures, as fractions: `wer` and `cer`,
    `accuracy`, or `auc`. The model is left in the mode it was in."""
    model = as_model(model)
    utterances = utterances_of(manifest)
    task = task_of(model)
    references: list[Any] = []
    answers: list[Any] = []
    for batch, output in outputs(model, task, utterances, batch_size, workers):
        references += task.references(batch, output)
        answers += task.answers(output)
    return {"n": len(utterances), **task.marks(references, answers)}


def utterances_of(manifest: Path | str | Sequence[Utterance]) -> Sequence[Utterance]:
    """Those of a manifest given by its path or by its utterances."""
    return read_manifest(manifest) if isinstance(manifest, Path | str) else manifest


def outputs(
    model: Model,
    task: Task,
    utterances: Sequence[Utterance],
    batch_size: int = 32,
    workers: int = 0,
) -> Iterator[tuple[Batch, Output]]:
    """Batches of similar durations, and what the model says to each in evaluation."""
    dataset = UtteranceDataset(utterances, task.encode, sample_rate=model.sample_rate)
    plan = bucket_batches(
        [u.duration_s for u in utterances],
        batch_size=batch_size,
        batch_seconds=None,
        seed=0,
        epoch=0,
        shuffle=False,
    )
    device = next(model.parameters()).device
    for batch in batches(dataset, plan, workers):
        with evaluating(model), torch.inference_mode():
            output = model(batch.audio.to(device), batch.lengths.to(device))
        yield batch, output
