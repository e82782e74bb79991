"""Speech networks that train, evaluate and stream with the same numbers: `import speechkit as sk`.

Names are loaded on first use, so importing the package is quick and imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

# for editors and type checkers, which do not call __getattr__
if TYPE_CHECKING:
    from speechkit import cli as cli
    from speechkit import errors as errors
    from speechkit import events as events
    from speechkit import frontend as frontend
    from speechkit import nn as nn
    from speechkit import ops as ops
    from speechkit import testing as testing
    from speechkit import text as text
    from speechkit import train as train
    from speechkit.card import ModelCard as ModelCard
    from speechkit.card import bundled_models as bundled_models
    from speechkit.checkpoint import load as load
    from speechkit.checkpoint import save as save
    from speechkit.component import Component as Component
    from speechkit.component import Moved as Moved
    from speechkit.hookspecs import hookimpl as hookimpl
    from speechkit.infer import classify as classify
    from speechkit.infer import detect as detect
    from speechkit.infer import transcribe as transcribe
    from speechkit.models import Block as Block
    from speechkit.models import MarbleNet as MarbleNet
    from speechkit.models import MatchboxNet as MatchboxNet
    from speechkit.models import Model as Model
    from speechkit.models import Output as Output
    from speechkit.models import QuartzNet as QuartzNet
    from speechkit.models import build as build
    from speechkit.models.prepare import prepare as prepare
    from speechkit.plugins import components as components
    from speechkit.streaming import SessionPool as SessionPool
    from speechkit.streaming import StreamBatch as StreamBatch
    from speechkit.streaming import stream as stream
    from speechkit.tasks.evaluation import evaluate as evaluate
    from speechkit.train import Run as Run
    from speechkit.train import fit as fit

    __version__: str

_HOME = {
    "Block": "speechkit.models",
    "Component": "speechkit.component",
    "MarbleNet": "speechkit.models",
    "MatchboxNet": "speechkit.models",
    "Model": "speechkit.models",
    "ModelCard": "speechkit.card",
    "Moved": "speechkit.component",
    "Output": "speechkit.models",
    "QuartzNet": "speechkit.models",
    "Run": "speechkit.train",
    "SessionPool": "speechkit.streaming",
    "StreamBatch": "speechkit.streaming",
    "build": "speechkit.models",
    "bundled_models": "speechkit.card",
    "classify": "speechkit.infer",
    "components": "speechkit.plugins",
    "detect": "speechkit.infer",
    "evaluate": "speechkit.tasks.evaluation",
    "fit": "speechkit.train",
    "hookimpl": "speechkit.hookspecs",
    "load": "speechkit.checkpoint",
    "prepare": "speechkit.models.prepare",
    "save": "speechkit.checkpoint",
    "stream": "speechkit.streaming",
    "transcribe": "speechkit.infer",
}
_MODULES = ("cli", "errors", "events", "frontend", "nn", "ops", "testing", "text", "train")

__all__ = sorted([*_HOME, *_MODULES])

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(_imported(_HOME[name]), name)
        if name in _MODULES:
            return _imported(f"speechkit.{name}")
        if name == "__version__":
            return importlib.import_module("speechkit.packages").core_version()
        raise AttributeError(f"module 'speechkit' has no attribute {name!r}")


def _imported(module: str) -> Any:
    from speechkit.errors import missing_extra

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if missing := missing_extra(error):
            raise missing from error
        raise


def __dir__() -> list[str]:
    return __all__
