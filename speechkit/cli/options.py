"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder, or a bundled model such as digits.")
]
AudioFiles = Annotated[
    list[Path], typer.Argument(metavar="AUDIO...", help="wav, flac, ogg, opus, mp3 or sph files.")
]
