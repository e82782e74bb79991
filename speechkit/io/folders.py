"""Model folders: where they are, the names of their files, and the stored config."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from speechkit.card import bundled_folders
from speechkit.component import did_you_mean
from speechkit.errors import CheckpointError
from speechkit.io.untrusted import read_json
from speechkit.packages import DISTRIBUTION, NAME
from speechkit.published import published

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PLAN = "plan.safetensors"
"""The plan of the model (`speechkit.plans`), on which it runs without torch."""
WORD = re.compile(r"[\w.+!-]{0,80}", re.ASCII)
"""Valid names of versions and distributions."""


def find(path: str | os.PathLike[str]) -> Path:
    """The folder of a model given by path, bundled name, or the name of one that was pulled."""
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(
            f"{type(path).__name__} is no model; give a Model, its folder, or a bundled name"
        )
    folder = Path(path)
    try:
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except OSError as error:
        raise CheckpointError(f"no model folder {str(path)!r:.80}: {error.strerror}") from error
    if is_folder:
        if (folder / CONFIG).is_file():
            return folder
        raise CheckpointError(f"{folder} has no {CONFIG}; give a folder written by speechkit")
    if is_file:
        raise CheckpointError(f"{folder} is a file; give the folder of a model, or a bundled name")
    bundled = {entry.name: entry for entry in bundled_folders()}
    if str(path) in bundled:
        return bundled[str(path)]
    if row := published().get(str(path)):
        if row.is_pulled:
            return row.folder
        raise CheckpointError(f"{path} is not on this machine; type: speechkit pull {path}")
    hint = did_you_mean(str(path), bundled, also=published())
    raise CheckpointError(f"no model folder {str(path)!r}. {hint}")


def read_config(folder: Path) -> dict[str, Any]:
    """The stored description of a model folder."""
    try:
        stored = read_json(folder / CONFIG)
        if stored["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} has format {stored['format']}; this version reads {FORMAT}: "
                f"pip install -U {DISTRIBUTION}"
            )
        return {**stored, "config": stored["config"], "plugins": _origins(stored["plugins"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is not a model description: {error!r}") from error


def _origins(stored: Any) -> dict[str, dict[str, str]]:
    """The origin of each plugin; raises TypeError or ValueError for unsafe text."""
    # earlier models have only the version
    found = {
        name: {"version": value} if isinstance(value, str) else dict(value)
        for name, value in dict(stored).items()
    }
    if not all(map(NAME.fullmatch, found)):
        raise ValueError("a plugin's name is not of a-z, 0-9 and _")
    if not all(WORD.fullmatch(text) for origin in found.values() for text in origin.values()):
        raise ValueError("a plugin's version or distribution is no word")
    return found


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of the config and the weights in a folder; raises OSError."""
    found = {}
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
