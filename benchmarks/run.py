"""Speed compared with other packages, on one thread unless another number is given.

    make bench                                   # everything except what takes minutes
    python -m benchmarks.run --list
    python -m benchmarks.run [NAME ...] [--rounds N] [--threads N] [--cpu] [--compile] [--long]

Runs the tests first, prints tables, and writes runs/bench.json and runs/bench.svg.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import (
    components,
    depthwise,
    detection,
    offline,
    plot,
    report,
    signs,
    sparse,
    start,
    streaming,
    training,
)
from benchmarks.registry import Benchmark, Options, chosen, milliseconds, processor_milliseconds
from benchmarks.timing import timed
from benchmarks.verify import run_tests

SUBJECTS = (
    depthwise,
    training,
    offline,
    streaming,
    sparse,
    components,
    signs,
    detection,
    start,
)
RESULT = Path("runs/bench.json")


def main(arguments: list[str] | None = None) -> int:
    """Runs the requested benchmarks; 1 if the tests fail, 2 after a wrong command."""
    asked = parser().parse_args(arguments)
    options = Options(asked.compile, asked.long)
    benchmarks = [b for subject in SUBJECTS for b in subject.benchmarks(options)]
    console = Console()
    try:
        benchmarks = chosen(benchmarks, asked.names)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if asked.cpu:
        benchmarks = [on_the_processor(benchmark) for benchmark in benchmarks]
    if asked.list:
        for benchmark in benchmarks:
            print(f"{benchmark.name}: {benchmark.work}")
            print(*(f"    {contestant.name}" for contestant in benchmark.contestants), sep="\n")
        return 0
    if not run_tests():
        print("the tests fail: nothing is timed", file=sys.stderr)
        return 1
    run(benchmarks, asked.rounds, console, threads=asked.threads)
    return 0


def on_the_processor(benchmark: Benchmark) -> Benchmark:
    """A benchmark of this process by processor time instead of elapsed time."""
    if benchmark.measure is not milliseconds:
        return benchmark
    return replace(benchmark, measure=processor_milliseconds, unit="ms of the processor")


def run(
    benchmarks: list[Benchmark],
    rounds: int,
    console: Console,
    path: Path = RESULT,
    threads: int = 1,
) -> None:
    """Times benchmarks in order; the results so far are written after each."""
    torch.set_num_threads(threads)
    result = report.circumstances(rounds, threads)
    result["benchmarks"] = {}
    console.print(f"{result['processor']}, load {result['load'][0]}\n", highlight=False)
    for benchmark in benchmarks:
        result["benchmarks"][benchmark.name] = report.as_json(benchmark, timed(benchmark, rounds))
        report.show(console, benchmark.name, result["benchmarks"][benchmark.name])
        report.write(path, result)
        path.with_suffix(".svg").write_text(plot.svg(result), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="benchmarks/run.py", description="Speed compared with other packages."
    )
    top.add_argument("names", nargs="*", metavar="NAME", help="such as offline, or offline/5x5-1")
    top.add_argument("--rounds", type=int, default=15, help="turns of each contestant (15)")
    top.add_argument("--threads", type=int, default=1, help="threads of each contestant (1)")
    top.add_argument("--cpu", action="store_true", help="processor time instead of elapsed time")
    top.add_argument("--list", action="store_true", help="list the benchmarks, and time nothing")
    top.add_argument("--compile", action="store_true", help="torch.compile too, which takes long")
    top.add_argument("--long", action="store_true", help="an hour of sound too")
    return top


if __name__ == "__main__":
    sys.exit(main())
