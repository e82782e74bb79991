"""What a benchmark is: contestants that do the same work, each built when its turn comes."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

TEMPORARY = Path(tempfile.gettempdir()) / "speechkit-bench"
"""Where what takes long to make is kept from run to run."""

Output = Tensor | tuple[Tensor, ...]
Run = Callable[[], Output]
"""One round of a contestant; what it returns is compared before anything is timed."""


class Absent(Exception):  # noqa: N818, it is no error
    """A contestant is not there; the text says why in one line."""


@dataclass(frozen=True)
class Options:
    """What takes minutes and is left out unless asked for."""

    compile: bool = False
    long: bool = False


@dataclass(frozen=True)
class Contestant:
    """One way to do the work; `build` raises Absent where it cannot be had.

    Its output must be that of `reference`, or else of the baseline, within `tolerance` of the
    largest value, one for all tensors or one for each; infinity says that there is nothing to
    compare with. A round does `units` of the work that the benchmark counts.
    """

    name: str
    build: Callable[[], Run]
    tolerance: float | tuple[float, ...] = 1e-4
    reference: Run | None = None
    units: int = 1


def milliseconds(run: Run) -> float:
    """How long one round takes."""
    began_s = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began_s)


@dataclass(frozen=True)
class Benchmark:
    """Contestants, the first of them the baseline; `work` says what one unit is.

    `audio_s` is a unit's audio in seconds. `measure` gives the figure of a round in `unit`; with
    `repeat` off one round is enough.
    """

    name: str
    work: str
    contestants: tuple[Contestant, ...]
    audio_s: float | None = None
    measure: Callable[[Run], float] = milliseconds
    unit: str = "ms"
    repeat: bool = True


def chosen(benchmarks: list[Benchmark], names: list[str]) -> list[Benchmark]:
    """Those named, whole or by the part before the slash; all where none is named."""
    known = {name for b in benchmarks for name in (b.name, b.name.split("/")[0])}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no benchmark {', '.join(unknown)}; see them with --list")
    return [b for b in benchmarks if not names or {b.name, b.name.split("/")[0]} & set(names)]
