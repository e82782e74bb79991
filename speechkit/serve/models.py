"""The models of a server, loaded once."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Union

from speechkit.config import to_dict
from speechkit.errors import ConfigError
from speechkit.plans.about import About
from speechkit.plans.source import about_of
from speechkit.serve.errors import ApiError

if TYPE_CHECKING:
    from speechkit.models import Model
    from speechkit.plans.plan import Plan

Net = Union["Plan", "Model"]


class Models:
    """Plans or models by the last part of their names; raises ConfigError if two are the same."""

    def __init__(self, nets: Mapping[str, Net]) -> None:
        self.nets = {Path(name).name: net for name, net in nets.items()}
        if len(self.nets) < len(nets):
            raise ConfigError(f"{', '.join(nets)}: two end in the same name; rename a folder")

    def find(self, name: str | None, verb: str | None = None) -> tuple[str, Net, About]:
        """The model with a name, or else the first that can do `verb`.

        Raises ApiError for an unknown model, and for one of another kind.
        """
        able = [own for own, net in self.nets.items() if _can(about_of(net), verb)]
        if name is None and able:
            name = able[0]
        if name not in able:
            what = (
                f"model {name!r:.80} is not served"
                if name not in self.nets
                else (f"model {name!r} cannot {verb}")
            )
            if name is None:
                what = f"no model here can {verb}"
            shown = f"give one of {', '.join(able)}" if able else f"serve one that can {verb}"
            raise ApiError(404, f"{what}; {shown}", param="model", code="model_not_found")
        return name, self.nets[name], about_of(self.nets[name])

    def rows(self) -> list[dict[str, object]]:
        """The models as `GET /v1/models` lists them, with what each can do and by which rules."""
        return [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "speechkit",
                "verb": about_of(net).verb,
                "rules": to_dict(about_of(net).rules),
            }
            for name, net in self.nets.items()
        ]


def _can(about: About, verb: str | None) -> bool:
    """Whether a model can do what is asked; a clip classifier may detect too."""
    return verb is None or about.verb == verb or (verb == "detect" and about.detects)
