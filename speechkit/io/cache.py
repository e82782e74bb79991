"""The folder for what is made or downloaded once for a user."""

import os
from pathlib import Path

from speechkit.errors import ConfigError


def cache_folder() -> Path:
    """`SPEECHKIT_CACHE`, else speechkit's folder in the user's cache.

    Raises ConfigError for a user without a home.
    """
    if folder := os.environ.get("SPEECHKIT_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speechkit"
    except RuntimeError as error:
        raise ConfigError(
            "this user has no home folder; set SPEECHKIT_CACHE to a folder for models and libraries"
        ) from error
