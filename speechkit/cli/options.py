"""Arguments that several commands take, and what a shell completes them to."""

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from speechkit.hookspecs import KINDS


def complete_model(incomplete: str) -> list[str]:
    """The bundled models and the folders that begin so; imports no torch, for a quick answer."""
    from speechkit.card import bundled_folders

    names = [folder.name for folder in bundled_folders() if folder.name.startswith(incomplete)]
    return names + sorted(glob.glob(f"{glob.escape(incomplete)}*/"))


def complete_component(*kinds: str) -> Callable[[str], list[str]]:
    """Completes the components of these kinds, or of all."""

    def complete(incomplete: str) -> list[str]:
        from speechkit.plugins import components

        entries = [entry for kind in kinds or KINDS for entry in components(kind)]
        names = {name for e in entries for name in (e.component.name, e.qualified_name)}
        return sorted(name for name in names if name.startswith(incomplete))

    return complete


def complete_kind(incomplete: str) -> list[str]:
    """Completes the kinds of components."""
    return sorted(kind for kind in KINDS if kind.startswith(incomplete))


Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, or a bundled model such as digits.",
        autocompletion=complete_model,
    ),
]
AudioFiles = Annotated[
    list[Path], typer.Argument(metavar="AUDIO...", help="wav, flac, ogg, opus, mp3 or sph files.")
]
