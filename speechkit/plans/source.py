"""Finds the plan of a model: in a folder beside its weights, or in a file."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Union

from speechkit.errors import CheckpointError
from speechkit.folders import PLAN, digests, find
from speechkit.plans.plan import Plan, load_plan

if TYPE_CHECKING:
    from speechkit.models import Model

ModelSource = Union[Plan, "Model", str, "os.PathLike[str]"]
"""A plan or its file, or a model, its folder, or the name of a bundled one."""

log = logging.getLogger(__name__)


def plan_beside(folder: Path) -> Plan | None:
    """The plan in a model folder; None if there is none, or if it is of other files."""
    path = folder / PLAN
    if not path.is_file():
        return None
    plan = load_plan(path)
    try:
        current = digests(folder)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from error
    if plan.facts is None or plan.facts.files != current:
        log.warning(
            f"{path} is of another model than the files beside it, so it is not used; "
            "export the model again"
        )
        return None
    return plan


def as_plan(source: ModelSource) -> Plan | None:
    """The given plan, that of a file, or the one beside a model given by folder or bundled name.

    None for a Model, and for a folder without a plan, which need torch. Raises CheckpointError if
    there is no such file or model.
    """
    if isinstance(source, Plan):
        return source
    if not isinstance(source, str | os.PathLike):
        return None
    return load_plan(source) if Path(source).is_file() else plan_beside(find(source))
