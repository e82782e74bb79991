"""How a speech detector did: the area under its ROC curve, and the curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speechkit import metrics
from speechkit.data import Utterance
from speechkit.evaluation import outputs
from speechkit.models import Model
from speechkit.report.page import curve
from speechkit.tasks import Detection


@dataclass(frozen=True)
class Detected:
    """Whether there was speech in each frame of `utterances` recordings, and its probability."""

    utterances: int
    speech: list[int]
    scores: list[float]

    @property
    def figures(self) -> dict[str, Any]:
        """The number of utterances and the area under the ROC curve."""
        return {"n": self.utterances, "auc": metrics.auc(self.speech, self.scores)}

    def sections(self) -> list[tuple[str, str]]:
        """The ROC curve."""
        points = metrics.roc(self.speech, self.scores).tolist()
        return [("ROC", curve(points, "false alarms, share of silent frames", "hits"))]


def detection(model: Model, utterances: Sequence[Utterance]) -> Detected:
    """How the model does on utterances with `segments`."""
    task = Detection(model)
    speech: list[int] = []
    scores: list[float] = []
    for batch, output in outputs(model, task, utterances):
        speech += task.references(batch, output)
        scores += task.answers(output)
    return Detected(len(utterances), speech, scores)
