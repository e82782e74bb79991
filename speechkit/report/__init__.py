"""Detailed reports: counts, speakers, calibration and latencies, and a page with all of them."""

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
    """The detailed report of a model on a manifest, by its task.

    Recognition uses `decoder`. With `streaming` each utterance is fed to a session, which gives
    latencies. Raises ConfigError for either if the model is no recogniser.
    """
    task = task_of(model)
    if not task.decodes and (streaming or Spec.parse(decoder) != Spec("greedy")):
        raise ConfigError(
            f"decoder and streaming are for recognition; leave them out for a {model.config.kind}"
        )
    return task.report(model, utterances_of(manifest), decoder, streaming)


__all__ = ["judge", "page"]
