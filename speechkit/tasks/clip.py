"""Classification: one label for a clip."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechkit.component import did_you_mean
from speechkit.data import Channel, RawFormat, Source, Utterance
from speechkit.decode import Decoder
from speechkit.errors import ManifestError
from speechkit.infer import Label, classify
from speechkit.models import Model, Output
from speechkit.models.net import Name
from speechkit.report.page import heat
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing
from speechkit.streaming.listeners import SEGMENT_S, KeywordListener, SpeechListener
from speechkit.tasks.base import Listener, Task
from speechkit.tasks.metrics import accuracy, confusion


class Classification(Task):
    """One label for a clip.

    Scores are logits `[B, n]` of the labels. An utterance needs a `label`. Metric: `accuracy`. In a
    stream it spots labels in a sliding window; a model whose config has `postprocess` detects
    speech, its label 1.
    """

    verb = "classify"
    loss = "cross_entropy"

    def encode(self, utterance: Utterance) -> Tensor:
        """The label's index, a scalar."""
        if utterance.label not in self.labels:
            hint = did_you_mean(str(utterance.label), self.labels)
            raise ManifestError(f"{utterance.place}: no label {utterance.label!r}. {hint}")
        return torch.tensor(self.labels.index(utterance.label))

    def predictions(self, output: Output) -> list[int]:
        """The index of the best label."""
        return output.scores.argmax(1).tolist()

    def metrics(self, references: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
        return {"accuracy": accuracy(references, predictions)}

    def error(self, metrics: dict[str, float]) -> float:
        return 1 - metrics["accuracy"]

    def predict(
        self,
        model: Model,
        audio: Source,
        sample_rate: int | None = None,
        *,
        channel: Channel = "mix",
        raw: RawFormat | None = None,
    ) -> Label:
        """As `sk.classify`."""
        return classify(model, audio, sample_rate, channel=channel, raw=raw)

    @property
    def detects(self) -> bool:
        """Whether the model detects speech, clip by clip."""
        return hasattr(self.config, "postprocess")

    @property
    def window_s(self) -> float:
        return SEGMENT_S if self.detects else self.config.rule(Spotting).window_s

    def listener(self, frame_s: float, decoder: Decoder | Name | None = None) -> Listener:
        """Keywords by the config's `spotting`, or starts and ends of speech by `postprocess`."""
        if self.detects:
            # a window's score is that of its middle
            lag_s = SEGMENT_S / 2 if self.per_clip else 0.0
            return SpeechListener(self.config.rule(PostProcessing), frame_s, lag_s)
        return KeywordListener(self.config.rule(Spotting), self.labels, frame_s)

    def caption(self, scores: Tensor) -> str:
        """The best label, or that of speech, and its probability."""
        probabilities = scores.softmax(0)
        index = 1 if self.detects else int(probabilities.argmax())
        return f"{self.labels[index]} {float(probabilities[index]):.2f}"

    def sections(
        self, references: Sequence[int], predictions: Sequence[int]
    ) -> list[tuple[str, str]]:
        """The confusion matrix."""
        counts = confusion(references, predictions, len(self.labels)).tolist()
        return [("Labels (rows) and predictions (columns)", heat(self.labels, counts))]
