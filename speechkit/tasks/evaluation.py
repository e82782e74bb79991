"""Evaluates a model on a manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechkit.checkpoint import ModelSource, as_model
from speechkit.data import Utterance, utterances_of
from speechkit.tasks.base import metrics_of, task_of


def evaluate(
    model: ModelSource,
    manifest: Path | str | Sequence[Utterance],
    batch_size: int = 32,
    workers: int = 0,
) -> dict[str, Any]:
    """The number of utterances `n` and the task's metrics, as fractions: `wer` and `cer`,
    `accuracy`, `auc`, or those of a plugin's. The model is left in the mode it was in."""
    model = as_model(model)
    utterances = utterances_of(manifest)
    task = task_of(model)
    pairs = task.collect(model, utterances, batch_size, workers)
    return {"n": len(utterances), **metrics_of(task, *pairs)}
