"""A net with other rows and the weights of a trained one."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from speechkit.models import Block, Model, build
from speechkit.nn import LookAhead
from speechkit.transforms import check_components

Row = tuple[Block, LookAhead]
"""A block of the config and its look-ahead, as in `config.rows()`, where the stem is the first."""


def with_rows(
    model: Model,
    rows: Sequence[Row],
    origins: Iterable[int | None],
    seed: int = 0,
    *,
    old_name: Callable[[str], str] = str,
    **changes: Any,
) -> Model:
    """A net of `rows`, in evaluation, with the weights of `model`.

    `origins` has for each row the row of `model` whose weights it gets, counted from 0 for the
    stem, or None for those that a net begins with; several may have the same. So has a weight that
    its origin lacks or that has another shape. `old_name` gives a second name of a weight within
    its row, for rows whose block names its weights otherwise than the origin's. Front end and head
    are kept, and so are device and dtype. `changes` are other fields of the config. ConfigError if
    rows move in a stack that is not `serial`.
    """
    blocks, aheads = zip(*rows, strict=True)
    places = dict(enumerate(origins))
    if places != dict(enumerate(range(len(model.config.rows())))):
        check_components("of rows", model.config, {"stack": ("core/serial",)})
    config = replace(model.config, size="custom", blocks=blocks, lookahead=aheads, **changes)
    made = build(config, seed).to(next(model.parameters())).eval()
    old, new = model.state_dict(), made.state_dict()
    taken: dict[str, Tensor] = {}
    for name, value in new.items():
        known = old.get(_moved(name, places), old.get(_moved(name, places, old_name)))
        if known is not None and known.shape == value.shape:
            taken[name] = known
    made.load_state_dict(taken, strict=False)
    return made


def row_name(row: int) -> str:
    """The name of a row's layer in the model: `stem`, `encoder.0`, `encoder.1`, ..."""
    return f"encoder.{row - 1}" if row else "stem"


def _moved(name: str, places: dict[int, int | None], old_name: Callable[[str], str] = str) -> str:
    """The name in the old net of a tensor of the new one; an empty string if it is new."""
    found = re.match(r"stem\.|encoder\.(\d+)\.", name)
    if found is None:
        return name
    origin = places[int(found[1]) + 1 if found[1] else 0]
    return "" if origin is None else f"{row_name(origin)}.{old_name(name[found.end() :])}"
