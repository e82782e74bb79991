"""Loads the weights of another model as the starting weights of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from speechkit.checkpoint import load
from speechkit.errors import TrainingError
from speechkit.models import Model
from speechkit.models.net import COMPONENTS, Net
from speechkit.train.distributed import warn


def start_from(model: Model, folder: Path) -> None:
    """Loads the weights of the model in `folder`; those of the head only if the labels are equal.

    Warns of other differences between the two models.
    """
    other = load(folder)
    if other.sample_rate != model.sample_rate:
        raise TrainingError(
            f"start_from={folder} is for {other.sample_rate} Hz, this run's model for "
            f"{model.sample_rate} Hz; give both the same sample_rate"
        )
    kept = other.labels == model.labels or _can_reorder(other, model)
    known, own = (
        {name: x for name, x in m.state_dict().items() if kept or not name.startswith("head.")}
        for m in (other, model)
    )
    for name in sorted({*known, *own}):
        there, here = (list(x[name].shape) if name in x else "absent" for x in (known, own))
        if there != here:
            raise TrainingError(
                f"start_from={folder}: {name} is {there} there and {here} in this run's model; "
                f"give both the same net and front end, such as that one's: --set model={folder}"
            )
    old, new = _meaning(other.config), _meaning(model.config)
    if differing := [f"{f}={old[f]}, not {new[f]}" for f in old if old[f] != new[f]]:
        warn(f"start_from={folder} was trained with {'; '.join(differing)}")
    if not kept:
        warn(
            f"start_from={folder} has {len(other.labels)} labels, others or in another order than "
            f"this run's {len(model.labels)}: the head is new"
        )
    elif other.labels != model.labels:
        _reorder_head(known, other.labels, model.labels)
    model.load_state_dict(known, strict=False)


def _meaning(config: Net) -> dict[str, Any]:
    """The settings of a net, besides shapes, under which its weights were trained."""
    rows = config.rows()
    return {
        **{kind: str(getattr(config, kind)) for kind in COMPONENTS if kind != "init"},
        "parts of rows": [[f"{k} {spec}" for k, spec in row.components()] for row, _ in rows],
        "lookahead": [ahead for _, ahead in rows],
        "strides": [block.stride for block, _ in rows],
        "dilations": [block.dilation for block, _ in rows],
    }


LINEAR_HEAD = ("head.linear.weight", "head.linear.bias")


def _can_reorder(other: Model, model: Model) -> bool:
    """True if both have the same labels and a head with one row of weights for each label."""
    names = {name for name in other.state_dict() if name.startswith("head.")}
    return set(other.labels) == set(model.labels) and names <= {*LINEAR_HEAD}


def _reorder_head(weights: dict[str, Tensor], old: Sequence[str], new: Sequence[str]) -> None:
    """Sorts the rows of the head's linear layer into the new order of labels, blank last."""
    for name in LINEAR_HEAD:
        if (x := weights.get(name)) is not None:
            order = [*map(old.index, new), *range(len(old), len(x))]
            weights[name] = x[order]
