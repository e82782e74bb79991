"""Exported speech networks without torch: `import speechkit_runtime as skr`."""

from speechkit_runtime.audio import read_audio
from speechkit_runtime.errors import RuntimeFailure
from speechkit_runtime.model import Label, Model, load
from speechkit_runtime.stream import Stream

__all__ = ["Label", "Model", "RuntimeFailure", "Stream", "load", "read_audio"]
