"""What `evaluate` leaves out: counts, speakers, calibration, latencies, and a page of it all."""

from collections.abc import Sequence
from pathlib import Path

from speechkit.component import Spec
from speechkit.data import Utterance, utterances_of
from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.models.net import Name
from speechkit.report.page import page
from speechkit.tasks import Report, task_of


def judge(
    model: Model,
    manifest: Path | str | Sequence[Utterance],
    decoder: Name = "greedy",
    streaming: bool = False,
) -> Report:
    """How good a model is on a manifest, in detail, as its task reports it.

    Recognition reads text with `decoder`; with `streaming` each utterance is fed as a session is,
    which gives latencies. Raises ConfigError where either is asked of a model that is not for
    recognition.
    """
    task = task_of(model)
    if not task.decodes and (streaming or Spec.parse(decoder) != Spec("greedy")):
        raise ConfigError(
            f"decoder and streaming are for recognition; leave them out for a {model.config.kind}"
        )
    return task.report(model, utterances_of(manifest), decoder, streaming)


__all__ = ["judge", "page"]
