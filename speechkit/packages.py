"""The packages of this repository, as they are installed."""

import re

DISTRIBUTION = "speechkit-core"
NAME = re.compile("[a-z0-9_]+")
"""Valid names of plugins."""
OURS = (
    "activations",
    "compression",
    "heads",
    "kan",
    "methods",
    "mixers",
    "norms",
    "probes",
    "residuals",
)
"""The plugins of this repository, each in the distribution `speechkit-NAME`."""


def core_version() -> str:
    """The version of the installed core."""
    import importlib.metadata

    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


def how_to_get(plugin: str) -> str:
    """What to do for a plugin that is not installed.

    It names a package only for speechkit's own plugins: anybody can publish one of another name.
    """
    if plugin in OURS:
        return f"type: pip install speechkit-{plugin}"
    return "it is not one of speechkit's own; get it from whoever wrote it"
