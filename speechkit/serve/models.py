"""The models of a server, each loaded once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechkit.errors import ConfigError
from speechkit.plans.about import About
from speechkit.plans.source import about_of, resolve
from speechkit.serve.errors import ApiError

if TYPE_CHECKING:
    from speechkit.models import Model
    from speechkit.plans.plan import Plan


@dataclass(frozen=True)
class Served:
    """A model and the name that requests give it."""

    name: str
    net: "Plan | Model"
    about: About


class Models:
    """Models by the names they were given: of a bundled model, a folder or a plan's file."""

    def __init__(self, names: Sequence[str]) -> None:
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{len(names)} models, expected at least one and each of them once")
        self._served: dict[str, Served] = {}
        for name in names:
            net = resolve(name)
            self._served[name] = Served(name, net, about_of(net))

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def find(self, name: str | None, verb: str) -> Served:
        """The model of this name, or the first for a verb if it is None; ApiError if none fits."""
        fitting = {served.name: served for served in self if can(served.about, verb)}
        if name is None and fitting:
            return next(iter(fitting.values()))
        if name in fitting:
            return fitting[name]
        here = ", ".join(fitting) or "no model"
        if name in self._served:
            message = f"model {name!r:.80} cannot {verb}; {here} can"
            raise ApiError(400, message, "wrong_model", "model")
        asked = "no model was given" if name is None else f"there is no model {name!r:.80}"
        raise ApiError(404, f"{asked}; {here} can {verb}", "model_not_found", "model")


def can(about: About, verb: str) -> bool:
    """Whether a model has a verb, to `listen` included."""
    if verb == "listen":
        return about.decodes or about.detects or about.verb == "classify"
    return about.detects if verb == "detect" else about.verb == verb
