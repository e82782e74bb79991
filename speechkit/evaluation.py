"""How well a model does on a manifest."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from speechkit.data import Utterance, UtteranceDataset, batches, bucket_batches, read_manifest
from speechkit.models import Model
from speechkit.tasks import task_of


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model in evaluation, and afterwards in the mode it was in."""
    if not model.training:
        # nothing to change, so that threads can share the model
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


@torch.inference_mode()
def evaluate(
    model: Model,
    manifest: Path | str | Sequence[Utterance],
    batch_size: int = 32,
    workers: int = 0,
) -> dict[str, Any]:
    """The number of utterances `n` and the task's figures, as fractions: `wer` and `cer`,
    `accuracy`, or `auc`. The model is left in the mode it was in."""
    utterances = read_manifest(manifest) if isinstance(manifest, Path | str) else manifest
    task = task_of(model)
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
    references: list[Any] = []
    answers: list[Any] = []
    with evaluating(model):
        for batch in batches(dataset, plan, workers):
            output = model(batch.audio.to(device), batch.lengths.to(device))
            references += task.references(batch, output)
            answers += task.answers(output)
    return {"n": len(utterances), **task.marks(references, answers)}
