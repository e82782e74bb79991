"""Finds the plan of a model: in a folder beside its weights, or in a file."""

import logging
import os
from pathlib import Path

from speechkit.errors import CheckpointError
from speechkit.folders import PLAN, digests, find
from speechkit.plans.plan import Plan, load_plan

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


def find_plan(source: str | os.PathLike[str]) -> Plan | None:
    """The plan in a file, or of a model folder or a bundled name; None if the folder has none.

    Raises CheckpointError if there is no such file or model.
    """
    if isinstance(source, str | os.PathLike) and Path(source).is_file():
        return load_plan(source)
    return plan_beside(find(source))
