"""The base class of tasks, and the task of a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

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
from speechkit.events import Event
from speechkit.models import Model, Output, evaluating, scores_of
from speechkit.models.net import Name
from speechkit.plugins import registry

Targets = tuple[Tensor, Tensor]
"""What a loss takes beside the output: targets, and their lengths."""
IGNORED = -100
"""The target of a frame that does not count."""
COMMANDS = {"transcribe": "transcribe", "classify": "classify", "detect": "vad"}
"""The verbs that are functions of `sk`, and their commands."""


class Listener(Protocol):
    """Turns the scores of one session into events; `state` is a dataclass of plain data and
    tensors."""

    def init(self) -> Any:
        """The state before the first frame."""
        ...

    def step(self, state: Any, scores: Tensor, decided_s: float) -> tuple[Any, list[Event]]:
        """The state and the events after valid frames `scores [T, n]`."""
        ...

    def finish(self, state: Any, decided_s: float) -> list[Event]:
        """The events that the end brings."""
        ...

    def restore(self, values: dict[str, Any]) -> Any:
        """The state from its fields, as JSON stores them."""
        ...


class Report(Protocol):
    """How good a model is on a manifest, in detail."""

    @property
    def figures(self) -> dict[str, Any]:
        """The number of utterances `n` and named numbers: fractions, counts, and seconds `_s`."""
        ...

    def sections(self) -> list[tuple[str, str]]:
        """Titles and HTML of the parts of a page (`speechkit.report.page`)."""
        ...


@dataclass(frozen=True)
class Summary:
    """A report of metrics and parts of a page that are made already."""

    figures: dict[str, Any]
    parts: list[tuple[str, str]]

    def sections(self) -> list[tuple[str, str]]:
        """The parts."""
        return self.parts


class Task:
    """What a model is for: its targets, loss, metrics, verb, events in a stream, and report.

    A component of kind `task` makes one for a model, `factory(model, **p)`. A subclass defines
    `encode`, `predictions` and `metrics`; all else has a default. It holds no weights, since it is
    sent to the processes that read training data.
    """

    verb: str = "predict"
    """What to ask of a model. A plugin's task adds a command of this name."""
    loss: Name = "none"
    """The loss of a run that names none."""
    block_s: float = 0.08
    """How much sound a stream computes at a time, in seconds."""
    decodes: bool = False
    """True where scores are CTC log-probabilities, blank last, that a decoder turns into text and a
    speech detector may blank."""
    placeholder: Tensor | None = None
    """The target of a training utterance without one, for methods that need none; None where each
    utterance must have one."""

    def __init__(self, model: Model) -> None:
        self.config, self.labels = model.config, model.labels
        self.frame_s, self.per_clip = model.frame_s, model.per_clip

    @property
    def usage(self) -> str:
        """What to type for the verb."""
        if self.verb in COMMANDS:
            return f"sk.{self.verb} or `speechkit {COMMANDS[self.verb]}`"
        return f"`speechkit {self.verb}`"

    @property
    def window_s(self) -> float | None:
        """How many seconds back the scores of a stream reach, where the head pools over a clip;
        None for all of the sound so far."""
        return None

    def encode(self, utterance: Utterance) -> Tensor:
        """The target of one utterance: `[U]` numbers, a scalar, or `[S, 2]` segments.

        ManifestError where it has none that fits.
        """
        raise NotImplementedError

    def targets(self, batch: Batch, output: Output) -> Targets:
        """The batch's targets in the loss's shape, and their lengths `[B]`, on the output's device.

        By default what `encode` returned: scalars as `[B]`, rows as `[B, U]`.
        """
        assert isinstance(batch.targets, Tensor)
        lengths = output.lengths if batch.target_lengths is None else batch.target_lengths
        device = output.scores.device
        return batch.targets.to(device), lengths.to(device)

    def predictions(self, output: Output) -> Sequence[Any]:
        """What the model predicts, one entry for each of `references`."""
        raise NotImplementedError

    def references(self, batch: Batch, output: Output) -> Sequence[Any]:
        """What it should predict, by default the targets."""
        return self.targets(batch, output)[0].tolist()

    def metrics(self, references: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """Named figures of a data set, finite numbers."""
        raise NotImplementedError

    def error(self, metrics: dict[str, float]) -> float:
        """The figure that chooses the best model, smaller is better; the first metric by default.

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
        """What the model predicts for one recording: the verb, by default `predictions`, or the
        only one of them.

        `audio` is a path, bytes, array or tensor; arrays need their `sample_rate` in hertz. A
        result for the command line holds plain data, tuples and dataclasses.
        """
        samples = read_audio(audio, sample_rate, model.sample_rate, channel=channel, raw=raw)
        found = self.predictions(scores_of(model, samples))
        return found[0] if len(found) == 1 else found

    def listener(self, frame_s: float, decoder: Decoder | Name | None = None) -> Listener:
        """What turns the scores of a stream, a frame each `frame_s` seconds, into events.

        Only a task that `decodes` is given a `decoder`. ConfigError where there are no events.
        """
        raise ConfigError(f"a {self.config.kind} has no events in a stream; use {self.usage}")

    def caption(self, scores: Tensor) -> str:
        """One frame's scores `[n]` in a few words, for a meter; "" for none."""
        return ""

    def report(
        self,
        model: Model,
        utterances: Sequence[Utterance],
        decoder: Name = "greedy",
        streaming: bool = False,
    ) -> Report:
        """How good the model is on utterances: its metrics and `sections`, by default.

        Only a task that `decodes` is given a `decoder` or `streaming`.
        """
        pairs = self.collect(model, utterances)
        figures = {"n": len(utterances), **self.metrics(*pairs)}
        return Summary(figures, self.sections(*pairs))

    def sections(
        self, references: Sequence[Any], predictions: Sequence[Any]
    ) -> list[tuple[str, str]]:
        """Titles and HTML of the parts of a report's page (`speechkit.report.page`)."""
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
            references += self.references(batch, output)
            predictions += self.predictions(output)
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
            output = model(batch.audio.to(device), batch.lengths.to(device))
        yield batch, output


def task_of(model: Model) -> Task:
    """The task that the model's head serves."""
    made = registry().build("task", model.config.task, model)
    if not isinstance(made, Task):
        raise ComponentError(
            f"task {model.config.task} makes an object of type {type(made).__name__}, which is no "
            "speechkit.tasks.Task; derive its class from that, see docs/tasks.md"
        )
    return made


def require(model: Model, verb: str) -> Task:
    """The model's task; ConfigError, which names the right verb, where its verb is another."""
    task = task_of(model)
    if task.verb != verb:
        raise ConfigError(f"this {model.config.kind} cannot {verb}; use {task.usage}")
    return task
