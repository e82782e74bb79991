"""Benchmarks: contestants that do the same work, each built right before it is timed."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

TEMPORARY = Path(tempfile.gettempdir()) / "speechkit-bench"
"""The folder of files that take long to make and are kept between runs."""

Output = Tensor | tuple[Tensor, ...]
Run = Callable[[], Output]
"""One round of a contestant; its output is compared before anything is timed."""


class Absent(Exception):  # noqa: N818, it is no error
    """A contestant is not available; the text is the reason, in one line."""


@dataclass(frozen=True)
class Options:
    """Options for work that takes minutes and is otherwise left out."""

    compile: bool = False
    long: bool = False


@dataclass(frozen=True)
class Contestant:
    """One way to do the work; `build` raises Absent if it is not available.

    Its output must be that of `reference`, if given, else of the baseline, within `tolerance` of
    the largest value: one number for all tensors or one for each. With infinity there is no
    comparison. A round does `units` of the work that the benchmark counts.
    """

    name: str
    build: Callable[[], Run]
    tolerance: float | tuple[float, ...] = 1e-4
    reference: Run | None = None
    units: int = 1


def milliseconds(run: Run) -> float:
    """The time of one round."""
    began_s = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began_s)


@dataclass(frozen=True)
class Figure:
    """The result of a contestant: figures of one unit of work, or in `refused` the reason for none.

    `ratio` is the baseline's median divided by its own, the relative speed. `rtf` is the median
    divided by the duration of the audio. `note` says how the work was done.
    """

    median: float | None = None
    p10: float | None = None
    ratio: float | None = None
    rtf: float | None = None
    refused: str | None = None
    note: str | None = None


def processor_milliseconds(run: Run) -> float:
    """The processor time of one round, which other processes change less than elapsed time."""
    began_s = time.process_time()
    run()
    return 1000 * (time.process_time() - began_s)


@dataclass(frozen=True)
class Benchmark:
    """Contestants, of which the first is the baseline; `work` describes one unit.

    `audio_s` is a unit's audio in seconds. `measure` returns the figure of a round in `unit`.
    Without `repeat`, there is only one round. `note` returns what stands beside a contestant's
    figure, such as its engine, and `summary` the lines below the table.
    """

    name: str
    work: str
    contestants: tuple[Contestant, ...]
    audio_s: float | None = None
    measure: Callable[[Run], float] = milliseconds
    unit: str = "ms"
    repeat: bool = True
    note: Callable[[Run], str] | None = None
    summary: Callable[[Mapping[str, Figure]], list[str]] | None = None


def chosen(benchmarks: list[Benchmark], names: list[str]) -> list[Benchmark]:
    """The benchmarks with these names or parts before the slash; all if no name is given."""
    known = {name for b in benchmarks for name in (b.name, b.name.split("/")[0])}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no benchmark {', '.join(unknown)}; see them with --list")
    return [b for b in benchmarks if not names or {b.name, b.name.split("/")[0]} & set(names)]
