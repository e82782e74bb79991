"""Every exception speechkit raises on purpose.

    SpeechkitError
    ├── ConfigError       a config, a --set or a recipe that does not fit its schema
    ├── ComponentError    an unknown, ambiguous or wrongly parametrised component
    ├── PluginError       a plugin that is missing, broken or clashes with another
    ├── AudioError        sound that cannot be read or used
    ├── ManifestError     a manifest, or another text, with a line that cannot be used
    ├── CheckpointError   a model folder that cannot be loaded or written
    ├── StreamError       a chunk or a layer that cannot be streamed
    ├── TrainingError     a run that cannot go on
    └── MissingExtraError an optional dependency that is not installed

Each message is one line: what was given, what was expected, what to type.
"""

import re

from speechkit.limits import MAX_MESSAGE_CHARACTERS

OF_TORCH = {"jiwer": "jiwer", "torch": "torch", "yaml": "pyyaml"}
"""The modules of the extra torch, and their packages, for `missing_extra`."""


def one_line(text: object) -> str:
    """A message in one printable line: other characters escaped, the middle of a long one cut.

    The value given may hold control characters of the terminal, or the whole content of a file.
    """
    line = " ".join(str(text).split())
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(shown) <= MAX_MESSAGE_CHARACTERS:
        return shown
    half = MAX_MESSAGE_CHARACTERS // 2 - 2
    return f"{shown[:half]} … {shown[-half:]}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is that memory is used up."""
    # torch has its own error for GPU memory, and a RuntimeError for CPU memory
    return isinstance(error, MemoryError) or bool(
        re.search("out of memory|t allocate memory", str(error))
    )


class SpeechkitError(Exception):
    """The base of errors that are the caller's to fix; the command line prints one line of it."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(SpeechkitError):
    """A config, a `--set` or a recipe that does not fit its schema."""


class ComponentError(SpeechkitError):
    """An unknown, ambiguous or wrongly parametrised component."""


class PluginError(SpeechkitError):
    """A plugin that is missing, broken or clashes with another."""


class AudioError(SpeechkitError):
    """Sound that cannot be read or used."""


class ManifestError(SpeechkitError):
    """A manifest, or another text, with a line that cannot be used."""


class CheckpointError(SpeechkitError):
    """A model folder that cannot be loaded or written."""


class StreamError(SpeechkitError):
    """A chunk or a layer that cannot be streamed."""


class TrainingError(SpeechkitError):
    """A run that cannot go on."""


class MissingExtraError(SpeechkitError, ImportError):
    """An optional dependency that is not installed: an extra of the core, or of the plugin `of`."""

    def __init__(
        self, package: str, extra: str, what: str = "this", of: str = "speechkit-core"
    ) -> None:
        super().__init__(
            f"{what} needs {package}, which is not installed; type: pip install '{of}[{extra}]'"
        )


def missing_extra(error: BaseException) -> MissingExtraError | None:
    """The error for an import that failed because the extra torch is not installed, else None."""
    package = OF_TORCH.get(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    return MissingExtraError(package, "torch") if package else None
