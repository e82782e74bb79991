"""Exports models to files for other runtimes, and compares their output with the model's."""

import speechkit.torch_required

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import torch

from speechkit.checkpoint import ModelSource, as_model
from speechkit.component import Spec
from speechkit.data import Utterance, read_audio
from speechkit.errors import CheckpointError, ConfigError
from speechkit.export.graph import Example, UnexportableError
from speechkit.io.files import atomic_file
from speechkit.io.folders import find
from speechkit.models import Model
from speechkit.models.model import refuse_prepared
from speechkit.models.profile import why_not_streamable
from speechkit.plugins import CORE, MAKES, offered, registry

__all__ = ["Exported", "example_of", "export"]

log = logging.getLogger(__name__)

EXAMPLE_S = (0.87, 1.95, 1.5)
"""The durations of the audio on which an exported file is tested."""


@dataclass(frozen=True)
class Exported:
    """A file, its size, and the largest difference of its scores relative to the largest score
    (None where the exporter does not say)."""

    path: Path
    bytes: int
    difference: float | None


def export(
    model: ModelSource,
    path: Path | str,
    exporter: Spec | str = "onnx",
    audio: Sequence[Utterance] = (),
) -> Exported:
    """Writes the model with an exporter component such as `onnx:streaming=true`.

    The file is tested on `audio`, else on noise; int8 needs `audio`. It is written
    atomically. Raises CheckpointError where its output differs from the model's. An exporter
    whose factory has a parameter `folder` gets the model's, or None for a model in memory.
    """
    folder = None if isinstance(model, Model) else find(model)
    model = as_model(model)
    refuse_prepared(model, "export")
    exporter = Spec.parse(exporter)
    params = {"streaming": False, "features": True, **exporter.params}
    more = offered(registry().find("exporter", exporter.name).factory(), folder=folder)
    write = registry().build("exporter", Spec(exporter.name, params), **more)
    if params.get("int8") and not audio:
        raise ConfigError("int8 is for real sound, on which it is tested; add --audio MANIFEST")
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the name of a file to write")
    doubtful = _undeclared(model, exporter)
    if doubtful:
        log.warning("%s; it is tried, which may take minutes and fail", doubtful)
    with atomic_file(path) as part:
        try:
            difference = write(model, example_of(model, audio), part)
        except UnexportableError as error:
            if not doubtful:
                raise
            streams = not params["streaming"] and not why_not_streamable(model)
            hint = "; try --streaming, which traces its step" if streams else ""
            raise UnexportableError(f"{shorten(str(error), 200)}; {doubtful}{hint}") from error
    return Exported(path, path.stat().st_size, None if difference is None else float(difference))


def _undeclared(model: Model, exporter: Spec) -> str:
    """The layers from plugins that do not list the form of a core exporter, in words."""
    found = registry().find("exporter", exporter.name)
    # the name of an exporter has no dot
    form = found.component.name.replace("_", ".")
    # components do not list a native form; lowering finds the layers without one
    if found.plugin != CORE or form == "native":
        return ""
    names = {
        f"{entry.kind} {entry.qualified_name}"
        for entry in registry().named(model.config.components())
        if entry.kind in MAKES and entry.plugin != CORE and form not in entry.component.exports
    }
    return f"{form!r} is not in the exports of {', '.join(sorted(names))}" if names else ""


def example_of(model: Model, audio: Sequence[Utterance] = ()) -> Example:
    """Audio of several lengths, from `audio` or bursts of noise: `[B, N]`, and lengths `[B]`."""
    if audio:
        rows = [
            read_audio(u.audio, None, model.sample_rate, u.offset_s, u.duration_s) for u in audio
        ]
    else:
        chance = torch.Generator().manual_seed(0)
        rows = []
        for duration_s in EXAMPLE_S:
            at_s = torch.arange(round(duration_s * model.sample_rate)) / model.sample_rate
            loudness = 0.1 * (3 * torch.pi * at_s).sin().square()
            rows.append(loudness * torch.randn(len(at_s), generator=chance))
    # torch would take a batch of one for the only size there is
    rows = rows * 2 if len(rows) == 1 else rows
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths
