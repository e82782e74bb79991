"""What a model is for: how an utterance becomes a target, and scores become answers and marks."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from speechkit import metrics, text
from speechkit.component import did_you_mean
from speechkit.data import Batch, Utterance
from speechkit.errors import ConfigError, ManifestError
from speechkit.models import Model, Output

Targets = tuple[Tensor, Tensor]
"""What a loss wants beside the output: targets, and their lengths."""
IGNORED = -100
"""The target of a frame that does not count."""


class Task(Protocol):
    """How one kind of model is trained, read and judged."""

    loss: str

    def encode(self, utterance: Utterance) -> Tensor:
        """The target of one utterance; ManifestError where it has none that fits."""
        ...

    def targets(self, batch: Batch, output: Output) -> Targets:
        """The batch's targets in the loss's shape, on the output's device."""
        ...

    def answers(self, output: Output) -> Sequence[Any]:
        """What the model says, one entry for each of `references`."""
        ...

    def references(self, batch: Batch, output: Output) -> Sequence[Any]:
        """What it should say."""
        ...

    def marks(self, references: Sequence[Any], answers: Sequence[Any]) -> dict[str, float]:
        """Named figures, fractions, the one that chooses the best model first."""
        ...

    def error(self, marks: dict[str, float]) -> float:
        """The figure to make small."""
        ...


class Recognition:
    """Text from speech by CTC."""

    loss = "ctc"

    def __init__(self, model: Model) -> None:
        self.labels = model.labels
        self.normalization = getattr(model.config, "normalization", "none")

    def encode(self, utterance: Utterance) -> Tensor:
        if utterance.text is None:
            raise ManifestError(f"{utterance.place} has no text; add the key 'text' to its line")
        try:
            said = text.normalize(utterance.text, self.normalization, self.labels)
        except ManifestError as error:
            raise ManifestError(f"{utterance.place}: {error}") from error
        return text.encode(said, self.labels)

    def targets(self, batch: Batch, output: Output) -> Targets:
        assert isinstance(batch.targets, Tensor)
        assert batch.target_lengths is not None
        device = output.scores.device
        return batch.targets.to(device), batch.target_lengths.to(device)

    def answers(self, output: Output) -> list[str]:
        found = text.greedy_ctc(output.scores, output.lengths)
        return [text.decode(ids, self.labels).strip() for ids in found]

    def references(self, batch: Batch, output: Output) -> list[str]:
        targets, lengths = self.targets(batch, output)
        rows = zip(targets, lengths.tolist(), strict=True)
        return [text.decode(row[:n], self.labels) for row, n in rows]

    def marks(self, references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
        return {"wer": metrics.wer(references, answers), "cer": metrics.cer(references, answers)}

    def error(self, marks: dict[str, float]) -> float:
        return marks["wer"]


class Classification:
    """One label for a clip."""

    loss = "cross_entropy"

    def __init__(self, model: Model) -> None:
        self.labels = model.labels

    def encode(self, utterance: Utterance) -> Tensor:
        if utterance.label not in self.labels:
            hint = did_you_mean(str(utterance.label), self.labels)
            raise ManifestError(f"{utterance.place}: no label {utterance.label!r}. {hint}")
        return torch.tensor(self.labels.index(utterance.label))

    def targets(self, batch: Batch, output: Output) -> Targets:
        assert isinstance(batch.targets, Tensor)
        return batch.targets.to(output.scores.device), output.lengths

    def answers(self, output: Output) -> list[int]:
        return output.scores.argmax(1).tolist()

    def references(self, batch: Batch, output: Output) -> list[int]:
        return self.targets(batch, output)[0].tolist()

    def marks(self, references: Sequence[int], answers: Sequence[int]) -> dict[str, float]:
        return {"accuracy": metrics.accuracy(references, answers)}

    def error(self, marks: dict[str, float]) -> float:
        return 1 - marks["accuracy"]


class Detection:
    """Speech or not at every frame; the speech class is index 1."""

    loss = "frame_cross_entropy"

    def __init__(self, model: Model) -> None:
        self.frame_s = model.frame_s

    def encode(self, utterance: Utterance) -> Tensor:
        if utterance.segments is None:
            raise ManifestError(
                f"{utterance.place} has no segments; add the key 'segments' to its line"
            )
        return torch.tensor(utterance.segments, dtype=torch.float64).reshape(-1, 2)

    def targets(self, batch: Batch, output: Output) -> Targets:
        frames = torch.arange(output.scores.shape[1])
        # float32 would put a frame before a segment that starts with it
        at_s = frames.double() * self.frame_s
        rows = []
        for segments, length in zip(batch.targets, output.lengths.tolist(), strict=True):
            start, end = segments[:, :1], segments[:, 1:]
            speech = ((start <= at_s) & (at_s < end)).any(0).long()
            rows.append(speech.masked_fill(frames >= length, IGNORED))
        return torch.stack(rows).to(output.scores.device), output.lengths

    def answers(self, output: Output) -> list[float]:
        speech = output.scores.softmax(2)[:, :, 1]
        rows = zip(speech, output.lengths.tolist(), strict=True)
        return [p for row, n in rows for p in row[:n].tolist()]

    def references(self, batch: Batch, output: Output) -> list[int]:
        targets = self.targets(batch, output)[0]
        return targets[targets != IGNORED].tolist()

    def marks(self, references: Sequence[int], answers: Sequence[float]) -> dict[str, float]:
        return {"auc": metrics.auc(references, answers)}

    def error(self, marks: dict[str, float]) -> float:
        return 1 - marks["auc"]


TASKS: dict[str, Callable[[Model], Task]] = {
    "ctc": Recognition,
    "clip": Classification,
    "frame": Detection,
}


def task_of(model: Model) -> Task:
    """The task that the model's config names."""
    return TASKS[model.config.task](model)


VERBS = {"ctc": "transcribe", "clip": "classify", "frame": "detect"}
"""What to ask of a model for each task."""
COMMANDS = {**VERBS, "frame": "vad"}
"""The same on the command line."""


def require(model: Model, task: str) -> None:
    """Raises ConfigError, which names the right verb, unless the model is for `task`."""
    if model.config.task != task:
        raise ConfigError(
            f"this {model.config.kind} cannot {VERBS[task]}; use sk.{VERBS[model.config.task]} or "
            f"`speechkit {COMMANDS[model.config.task]}`"
        )
