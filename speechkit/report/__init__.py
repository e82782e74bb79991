"""What `evaluate` leaves out: counts, speakers, calibration, latencies, and a page of it all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from speechkit.component import Spec
from speechkit.data import Utterance
from speechkit.errors import ConfigError
from speechkit.evaluation import utterances_of
from speechkit.models import Model
from speechkit.models.net import Name
from speechkit.report.classification import classification
from speechkit.report.detection import detection
from speechkit.report.page import page
from speechkit.report.recognition import recognition


class Judged(Protocol):
    """How a model did."""

    @property
    def figures(self) -> dict[str, Any]:
        """The number of utterances `n` and named numbers: fractions, counts, and seconds `_s`."""
        ...

    def sections(self) -> list[tuple[str, str]]:
        """Titles and HTML of the parts of a page."""
        ...


def judge(
    model: Model,
    manifest: Path | str | Sequence[Utterance],
    decoder: Name = "greedy",
    streaming: bool = False,
) -> Judged:
    """How a model does on a manifest, in detail.

    Recognition reads text with `decoder`; with `streaming` it hears each utterance as a session
    does, which gives latencies. Raises ConfigError where either is asked of a model that is not for
    recognition.
    """
    utterances = utterances_of(manifest)
    if model.config.task == "ctc":
        return recognition(model, utterances, decoder, streaming)
    if streaming or Spec.parse(decoder) != Spec("greedy"):
        raise ConfigError(
            f"decoder and streaming are for recognition; leave them out for a {model.config.kind}"
        )
    if model.config.task == "clip":
        return classification(model, utterances)
    return detection(model, utterances)


__all__ = ["Judged", "judge", "page"]
