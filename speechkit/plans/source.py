"""Finds the plan of a model: in a folder beside its weights, or in a file."""

import logging
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Union

from speechkit.card import ModelCard, read_card
from speechkit.errors import CheckpointError, ConfigError, MissingExtraError
from speechkit.implementation import PLANS, asked
from speechkit.io.folders import PLAN, digests, find
from speechkit.plans.about import TASKS, About
from speechkit.plans.engine import library
from speechkit.plans.plan import Plan, load_plan

if TYPE_CHECKING:
    from speechkit.models import Model

ModelSource = Union[Plan, "Model", str, "os.PathLike[str]"]
"""A plan or its file, or a model, its folder, or the name of a bundled one."""

log = logging.getLogger(__name__)


def plan_beside(folder: Path) -> Plan | None:
    """The plan in a model folder; None if there is none, or if it is damaged or of other files."""
    path = folder / PLAN
    if not path.is_file():
        return None
    try:
        plan = load_plan(path)
        if plan.facts is None or plan.facts.files != digests(folder):
            raise CheckpointError(
                f"{path} is of another model than the files beside it; write it again with: "
                f"speechkit export {quote(str(folder))} --format native --out {quote(str(path))}"
            )
    except (CheckpointError, OSError) as error:
        log.warning(f"the plan is not used: {error}")
        return None
    return plan


def resolve(source: ModelSource) -> "Plan | Model":
    """The plan of a source as `as_plan` finds it, else its Model, for which torch is needed.

    If `use_impl` or SPEECHKIT_IMPL names an implementation that plans do not have, it is the Model,
    and a plan raises ConfigError. Where torch is installed, it is also the Model for a folder whose
    task is a plugin's, since its plan gives no events, and for any folder if there is no engine.
    """
    if (impl := asked()) not in PLANS:
        return in_torch(source, f"implementation {impl!r:.40}")
    plan = usable_plan(source)
    return in_torch(source, why_torch(source)) if plan is None else plan


def usable_plan(source: ModelSource) -> Plan | None:
    """The plan of a source; None where there is none or, with torch, its Model does more."""
    plan = as_plan(source)
    if plan is None or _is_plan(source) or not has_torch():
        return plan
    return plan if plan.about.task in TASKS and not isinstance(library(), str) else None


def why_torch(source: ModelSource) -> str:
    """The start of an error message: what needs torch where `as_plan` finds no plan."""
    if not isinstance(source, str | os.PathLike):
        return "this"
    usable = "usable " if (find(source) / PLAN).is_file() else ""
    return f"{source} has no {usable}plan, so it"


def in_torch(source: ModelSource, what: str) -> "Model":
    """The Model of a source, for `what` a plan cannot do; raises ConfigError for a plan."""
    refuse_plan(source, what)
    model: Model = with_torch("speechkit.checkpoint", what).as_model(source)
    return model


def refuse_plan(source: ModelSource, what: str) -> None:
    """Raises ConfigError for a plan or its file, which cannot do `what`."""
    if _is_plan(source):
        raise ConfigError(
            f"{what} is for models in torch, and a plan computes in C++ on the CPU; "
            "give the model, its folder, or a bundled name"
        )


def _is_plan(source: ModelSource) -> bool:
    """Whether a source is a plan or the path of one, which may be missing."""
    if not isinstance(source, str | os.PathLike):
        return isinstance(source, Plan)
    path = Path(source)
    return path.is_file() or (path.suffix == Path(PLAN).suffix and not path.is_dir())


def about_of(net: "Plan | Model") -> About:
    """What sessions and commands must know of a plan or a Model."""
    if isinstance(net, Plan):
        return net.about
    about: About = with_torch("speechkit.tasks.plans").about_of(net)
    return about


def card_of(source: str | os.PathLike[str]) -> ModelCard | None:
    """The card in a model folder or in a plan's file; None where there is none."""
    if Path(source).is_file():
        facts = load_plan(source).facts
        return None if facts is None else facts.card
    return read_card(find(source))


def has_torch() -> bool:
    """Whether torch is installed."""
    return find_spec("torch") is not None


def with_torch(module: str, what: str = "this") -> Any:
    """A module that imports torch; if that is not installed, MissingExtraError says `what` needs
    it."""
    if not has_torch():
        raise MissingExtraError("torch", "torch", what)
    return import_module(module)


def as_plan(source: ModelSource) -> Plan | None:
    """The given plan, that of a file, or the one beside a model given by folder or bundled name.

    None for a Model, and for a folder without a plan, which need torch. Raises CheckpointError if
    there is no such file or model.
    """
    if isinstance(source, Plan):
        return source
    if not isinstance(source, str | os.PathLike):
        return None
    return load_plan(source) if _is_plan(source) else plan_beside(find(source))
