"""Speech networks that train, evaluate and stream with the same numbers: `import speechkit as sk`.

Names are loaded on first use, so importing the package is quick and imports no torch.
"""

import importlib
from typing import Any

_HOME = {
    "Block": "speechkit.models",
    "Component": "speechkit.component",
    "MarbleNet": "speechkit.models",
    "MatchboxNet": "speechkit.models",
    "Output": "speechkit.models",
    "QuartzNet": "speechkit.models",
    "Run": "speechkit.train",
    "SessionPool": "speechkit.streaming",
    "StreamBatch": "speechkit.streaming",
    "build": "speechkit.models",
    "classify": "speechkit.infer",
    "components": "speechkit.plugins",
    "detect": "speechkit.infer",
    "evaluate": "speechkit.evaluation",
    "fit": "speechkit.train",
    "hookimpl": "speechkit.hookspecs",
    "load": "speechkit.checkpoint",
    "prepare": "speechkit.models",
    "save": "speechkit.checkpoint",
    "stream": "speechkit.streaming",
    "transcribe": "speechkit.infer",
}
_MODULES = ("cli", "errors", "events", "frontend", "nn", "ops", "testing", "text", "train")

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"speechkit.{name}")
    raise AttributeError(f"module 'speechkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
