"""How a classifier did: accuracy, and what it took for what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from speechkit import metrics
from speechkit.data import Utterance
from speechkit.evaluation import outputs
from speechkit.models import Model
from speechkit.report.page import heat
from speechkit.tasks import Classification


@dataclass(frozen=True)
class Classified:
    """How often each label was taken for each, `[labels, labels]`."""

    labels: tuple[str, ...]
    confusion: Tensor

    @property
    def figures(self) -> dict[str, Any]:
        """The number of utterances and the accuracy."""
        n = int(self.confusion.sum())
        return {"n": n, "accuracy": self.confusion.trace().item() / n}

    def sections(self) -> list[tuple[str, str]]:
        """The confusion matrix."""
        return [("Said (rows) and heard (columns)", heat(self.labels, self.confusion.tolist()))]


def classification(model: Model, utterances: Sequence[Utterance]) -> Classified:
    """How the model does on utterances with a `label`."""
    task = Classification(model)
    said: list[int] = []
    heard: list[int] = []
    for batch, output in outputs(model, task, utterances):
        said += task.references(batch, output)
        heard += task.answers(output)
    return Classified(model.labels, metrics.confusion(said, heard, len(model.labels)))
