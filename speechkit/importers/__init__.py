"""Imports models of other toolkits, without running any code from their files."""

from pathlib import Path
from typing import Literal

from speechkit.models import Model

Frames = Literal["nemo1", "invariant"]
"""How frames are counted: as in NeMo 1.0 to 2.4, or independent of padding as from 2.5 on."""


def read_model(path: Path | str, frames: Frames | None = None) -> Model:
    """The model in a `.nemo` archive, or in a `.safetensors` file of a folded QuartzNet.

    `frames` overrides the rule that follows from the file's version or metadata.
    """
    from speechkit.importers.nemo.folded import read_folded
    from speechkit.importers.nemo.model import read_nemo

    path = Path(path)
    return (read_folded if path.suffix == ".safetensors" else read_nemo)(path, frames)
