"""Models written by other toolkits: read without running what they hold, and made speechkit's."""

from pathlib import Path
from typing import Literal

from speechkit.models import Model

Frames = Literal["nemo1", "invariant"]
"""How frames are counted: as NeMo 1.0 to 2.4 do, or so that padding changes nothing (2.5 on)."""


def read_model(path: Path | str, frames: Frames | None = None) -> Model:
    """The model in a `.nemo` archive, or in a `.safetensors` file of a folded QuartzNet.

    `frames` replaces the rule that the file's own version or metadata asks for.
    """
    from speechkit.importers.nemo.folded import read_folded
    from speechkit.importers.nemo.model import read_nemo

    path = Path(path)
    return (read_folded if path.suffix == ".safetensors" else read_nemo)(path, frames)
