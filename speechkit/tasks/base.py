"""The base class of tasks, and the task of a model."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.component import Spec
from speechkit.data import (
    Batch,
    Channel,
    RawFormat,
    Source,
    Utterance,
    UtteranceDataset,
    batches,
    bucket_batches,
    read_audio,
)
from speechkit.decode import Decoder
from speechkit.errors import ComponentError, ConfigError
from speechkit.events import Listener
from speechkit.models import Model, Output, evaluating, scores_of
from speechkit.models.net import Name
from speechkit.plans.about import usage
from speechkit.plugins import calling, registry

T = TypeVar("T")
Targets = tuple[Tensor, Tensor]
"""The arguments of a loss besides the output: targets, and their lengths."""
IGNORED = -100
"""The target of frames that the loss ignores."""


class Report(Protocol):
    """The detailed report of a model on a manifest."""

    @property
    def figures(self) -> dict[str, Any]:
        """The number of utterances `n` and named numbers: fractions, counts, and seconds `_s`."""
        ...

    def sections(self) -> list[tuple[str, str]]:
        """Titles and HTML of the parts of a page (`speechkit.report.page`)."""
        ...


@dataclass(frozen=True)
class Summary:
    """A report with given metrics and sections of a page."""

    figures: dict[str, Any]
    parts: list[tuple[str, str]]

    def sections(self) -> list[tuple[str, str]]:
        """The parts."""
        return self.parts


class Task:
    """The purpose of a model: its targets, loss, metrics, verb, events in a stream, and report.

    A component of kind `task` makes one for a model, `factory(model, **p)`. A subclass defines
    `encode`, `predictions` and `metrics`; everything else has a default. It holds no weights, since
    it is sent to the processes that read training data.
    """

    verb: str = "predict"
    """The verb for predictions. A plugin's task adds a command with this name."""
    loss: Name = "none"
    """The default loss of a run."""
    block_s: float = 0.08
    """The duration of a stream's blocks, in seconds."""
    decodes: bool = False
    """True if scores are CTC log-probabilities, blank last, for a decoder and a speech detector."""
    component: str = "task"
    """The kind, plugin and name of its component, for messages; `task_of` sets it."""
    placeholder: Tensor | None = None
    """The target of training utterances without one, for methods that need none; None if each
    utterance must have one."""

    def __init__(self, model: Model) -> None:
        self.config, self.labels = model.config, model.labels
        self.frame_s, self.per_clip = model.frame_s, model.per_clip
        self.normalization, self.confidence = model.normalization, model.confidence

    @property
    def usage(self) -> str:
        """The command to type for the verb."""
        return usage(self.verb)

    @property
    def detects(self) -> bool:
        """Whether class 1 of the scores is speech."""
        return False

    def rule(self, kind: type[T]) -> T:
        """The model's rule of a kind such as `PostProcessing`, or the kind's defaults."""
        return self.config.rule(kind)

    @property
    def window_s(self) -> float | None:
        """The seconds of audio for the scores of a stream, if the head pools over a clip; None for
        all audio so far."""
        return None

    @abstractmethod
    def encode(self, utterance: Utterance) -> Tensor:
        """The target of one utterance: `[U]` numbers, a scalar, or `[S, 2]` segments.

        Raises ManifestError if it has none that fits.
        """

    def lacks_target(self, utterance: Utterance) -> bool:
        """True for an utterance that gets the `placeholder` where methods need no target."""
        return utterance.unlabeled

    def targets(self, batch: Batch, output: Output) -> Targets:
        """The batch's targets in the loss's shape, and their lengths `[B]`, on the output's device.

        By default the results of `encode`: scalars as `[B]`, rows as `[B, U]`.
        """
        assert isinstance(batch.targets, Tensor)
        lengths = output.lengths if batch.target_lengths is None else batch.target_lengths
        device = output.scores.device
        return batch.targets.to(device), lengths.to(device)

    def output(self, model: Model, audio: Tensor, lengths: Tensor) -> Output:
        """The scores of a batch in evaluation, by default the model's. Shape: audio `[B, N]`."""
        found: Output = model(audio, lengths)
        return found

    @abstractmethod
    def predictions(self, output: Output) -> Sequence[Any]:
        """The model's predictions, one for each of `references`."""

    def references(self, batch: Batch, output: Output) -> Sequence[Any]:
        """The expected predictions, by default the targets."""
        return self.targets(batch, output)[0].tolist()

    @abstractmethod
    def metrics(self, references: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """The metrics of a data set by name, finite numbers."""

    def error(self, metrics: dict[str, float]) -> float:
        """The number that selects the best model, smaller is better; by default the first metric.

        `metrics` may hold the number of utterances `n` too.
        """
        return next(value for name, value in metrics.items() if name != "n")

    def predict(
        self,
        model: Model,
        audio: Source,
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        raw: RawFormat | None = None,
    ) -> Any:
        """The model's prediction for one recording: by default `predictions`, or the only one of
        them.

        `audio` is a path, bytes, array or tensor; arrays need their `sample_rate` in hertz. A
        result for the command line holds plain data, tuples and dataclasses.
        """
        samples = read_audio(audio, sample_rate, model.sample_rate, channel=channel, raw=raw)
        output = scores_of(model, samples)
        with calling(self.component, "predictions"):
            found = self.predictions(output)
        return found[0] if len(found) == 1 else found

    def listener(self, frame_s: float, decoder: Decoder | Name | None = None) -> Listener:
        """The listener that turns the scores of a stream, one frame per `frame_s`, into events.

        Only a task that `decodes` gets a `decoder`. Raises ConfigError if there are no events.
        """
        raise ConfigError(f"a {self.config.kind} has no events in a stream; use {self.usage}")

    def caption(self, scores: NDArray[np.float32]) -> str:
        """One frame's scores `[n]` in a few words, for a meter; "" for none."""
        return ""

    def report(
        self,
        model: Model,
        utterances: Sequence[Utterance],
        decoder: Name = "greedy",
        streaming: bool = False,
    ) -> Report:
        """The model's report on utterances: by default its metrics and `sections`.

        Only a task that `decodes` gets a `decoder` or `streaming`.
        """
        pairs = self.collect(model, utterances)
        figures = {"n": len(utterances), **metrics_of(self, *pairs)}
        with calling(self.component, "sections"):
            return Summary(figures, self.sections(*pairs))

    def sections(
        self, references: Sequence[Any], predictions: Sequence[Any]
    ) -> list[tuple[str, str]]:
        """Titles and HTML of the sections of a report's page (`speechkit.report.page`)."""
        return []

    def collect(
        self,
        model: Model,
        utterances: Sequence[Utterance],
        batch_size: int = 32,
        workers: int = 0,
    ) -> tuple[list[Any], list[Any]]:
        """The references and predictions of utterances, in the order of batches."""
        references: list[Any] = []
        predictions: list[Any] = []
        for batch, output in outputs(model, self, utterances, batch_size, workers):
            with calling(self.component, "references"):
                references += self.references(batch, output)
            with calling(self.component, "predictions"):
                predictions += self.predictions(output)
        if len(references) != len(predictions):
            raise ComponentError(
                f"{self.component} has {len(references)} references and {len(predictions)} "
                "predictions; return one prediction for each reference"
            )
        return references, predictions


def outputs(
    model: Model,
    task: Task,
    utterances: Sequence[Utterance],
    batch_size: int = 32,
    workers: int = 0,
) -> Iterator[tuple[Batch, Output]]:
    """Batches of similar durations, and the model's output for each in evaluation."""
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
            output = task.output(model, batch.audio.to(device), batch.lengths.to(device))
        yield batch, output


def metrics_of(
    task: Task, references: Sequence[Any], predictions: Sequence[Any]
) -> dict[str, float]:
    """The task's metrics; ComponentError where it has none."""
    with calling(task.component, "metrics"):
        found = task.metrics(references, predictions)
    if not isinstance(found, dict) or not found:
        raise ComponentError(
            f"{task.component}: metrics returns {shorten(repr(found), 60)}; return numbers by "
            "name, such as {'accuracy': 0.9}"
        )
    return found


def error_of(task: Task, metrics: dict[str, float]) -> float:
    """The figure of the metrics that chooses the best model."""
    with calling(task.component, "error"):
        return float(task.error(metrics))


def task_of(model: Model) -> Task:
    """The task that the model's head serves."""
    spec = Spec.parse(model.config.task)
    # mypy wants a class without abstract members here; `derived` refuses objects that lack one
    made = registry().derived("task", spec, Task, model)  # type: ignore[type-abstract]
    plugin = registry().find("task", spec.name).plugin
    loss = registry().qualified("loss", made.loss, [plugin])
    if loss != Spec.parse(made.loss):
        made.loss = loss
    return made


def listener_of(
    model: Model, decoder: Decoder | Name | None = None, frame_s: float | None = None
) -> Listener:
    """The listener of the model's task for frames of `frame_s` seconds (the model's if None)."""
    task = task_of(model)
    if decoder is not None and not task.decodes:
        raise ConfigError(f"a decoder is for recognition; leave it out for a {model.config.kind}")
    with calling(task.component, "listener"):
        return task.listener(frame_s or model.frame_s, decoder)


def require(model: Model, verb: str) -> Task:
    """The model's task; raises ConfigError with the right verb if its verb is another."""
    task = task_of(model)
    if task.verb != verb:
        raise ConfigError(f"this {model.config.kind} cannot {verb}; use {task.usage}")
    return task
