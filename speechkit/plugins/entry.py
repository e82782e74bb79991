"""A component with its kind and the plugin that offers it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from speechkit.component import Component
from speechkit.errors import ComponentError, PluginError
from speechkit.plugins.loading import reason

STREAM_LAYER = "speechkit.nn.StreamLayer"
MODULE = "torch.nn.Module"
MAKES = {
    **dict.fromkeys(("activation", "channel", "norm", "residual"), MODULE),
    **dict.fromkeys(
        ("block", "frontend", "head", "mixer", "normalizer", "pool", "stack", "stem"), STREAM_LAYER
    ),
}
"""The base class of what a factory of each kind of layer returns."""


@dataclass(frozen=True)
class Origin:
    """The origin of a plugin: a version of a distribution, or a Python file."""

    version: str = ""
    distribution: str = ""
    file: str = ""


@dataclass(frozen=True)
class Entry:
    """A component together with its kind and the plugin and version it comes from."""

    kind: str
    component: Component
    plugin: str
    version: str

    @property
    def qualified_name(self) -> str:
        return f"{self.plugin}/{self.component.name}"

    def factory(self) -> Callable[..., Any]:
        """The component's factory, imported now if it was given as `"module:attribute"`."""
        factory = self.component.factory
        if not isinstance(factory, str):
            return factory
        module, _, attribute = factory.partition(":")
        try:
            loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, SystemExit) as error:
            raise PluginError(
                f"{self.kind} {self.qualified_name} cannot be loaded from {factory!r}: "
                f"{reason(error)}"
            ) from error
        return loaded

    def make(self, *args: Any, **kw: Any) -> Any:
        """Calls the factory; raises ComponentError where it returns no layer of its kind."""
        made = self.factory()(*args, **kw)
        base = MAKES.get(self.kind)
        # by name, since those classes are in layers above this one
        names = {c.__name__ for c in type(made).__mro__}
        if base is None or base.rpartition(".")[2] in names:
            return made
        hint = (
            "derive it from speechkit.nn.Windowed or Recurrent, or return "
            "speechkit.nn.FrameWise(module) if it processes each frame separately"
            if base == STREAM_LAYER
            else "return an instance of such a class"
        )
        raise ComponentError(
            f"{self.kind} {self.qualified_name}: its factory returned an object of type "
            f"{type(made).__name__}, expected a {base}; {hint}"
        )
