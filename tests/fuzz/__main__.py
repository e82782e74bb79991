"""Runs mutated inputs through every reader and command: `make fuzz`.

    python -m tests.fuzz [SECONDS [TARGET ...]]         the targets share the time
    python -m tests.fuzz 0 [TARGET ...] --inputs N      so many inputs each
    python -m tests.fuzz SECONDS --seed S               other inputs
    python -m tests.fuzz SECONDS TARGET --guided        by coverage, with atheris

Input N of a target is the same in every run with the same --seed, until the files of `seeds`
change.
What falls is written to `build/fuzz/TARGET-….SUFFIX`; once it is mended, it is kept in
`tests/fuzz/seeds/TARGET/`.
"""

import argparse
import hashlib
import itertools
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch

from . import seeds
from .contract import Fault, check
from .mutate import mutate
from .targets import Target, commands, readers

FELL = Path("build/fuzz")


def inputs(name: str, target: Target, seed: int = 0) -> Iterator[bytes]:
    """The kept inputs, the seeds, and then mutated ones without end."""
    yield from (*seeds.kept(name), *target.seeds)
    known = [*target.seeds, *seeds.kept(name)]
    for number in itertools.count(seed << 32):
        chance = Random(f"{name} {number}")
        yield mutate(chance.choice(known), chance)


class Faults:
    """What fell of a target, each place in the code shown but once."""

    def __init__(self, name: str, target: Target) -> None:
        self.name, self.target = name, target
        self.seen: Counter[str] = Counter()

    def try_one(self, data: bytes) -> None:
        """Runs an input; one that falls is written down."""
        # the folder is left behind where the process dies
        try:
            check(self.target.run, data, self.target.suffix, (FELL / self.name).absolute())
        except Fault as fault:
            place = where(fault)
            self.seen[place] += 1
            if self.seen[place] == 1:
                digest = hashlib.sha256(data).hexdigest()[:12]
                path = FELL / f"{self.name}-{digest}{self.target.suffix}"
                path.write_bytes(data)
                print(f"FAULT {path}: {str(fault)[:300]!r}\n  {place}", flush=True)


def where(fault: Fault) -> str:
    """The last lines of speechkit that a fault went through, or what it says."""
    frames = traceback.extract_tb(fault.__cause__.__traceback__ if fault.__cause__ else None)
    own = [
        f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames if "speechkit" in f.filename
    ]
    return " < ".join(own[-3:]) or " ".join(str(fault).split()[:3])


def fuzz(name: str, target: Target, seconds: float, count: int | None, seed: int) -> int:
    """Inputs for so long, or so many of them; the number of places that fell."""
    started, tried, faults = time.monotonic(), 0, Faults(name, target)
    for data in itertools.islice(inputs(name, target, seed), count):
        if count is None and time.monotonic() - started > seconds:
            break
        tried += 1
        faults.try_one(data)
    spent = time.monotonic() - started
    fell = (
        f"{faults.seen.total()} faults in {len(faults.seen)} places" if faults.seen else "no fault"
    )
    print(f"{name}: {tried} inputs, {fell}, {spent:.0f} s", flush=True)
    return len(faults.seen)


def guided(name: str, target: Target, seconds: int) -> None:
    """Inputs that atheris makes, which keeps those that reach new code; ends the process."""
    import atheris

    corpus = FELL / f"{name}.corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*target.seeds, *seeds.kept(name)]):
        (corpus / f"seed{number}").write_bytes(data)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        return mutate(data, Random(seed))[:most]

    limits = (f"-max_total_time={seconds}", "-max_len=1000000", "-timeout=60")
    one = Faults(name, target).try_one
    atheris.Setup([sys.argv[0], str(corpus), *limits], one, custom_mutator=changed)
    atheris.Fuzz()


def main() -> int:
    """0 where every input held."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("seconds", type=int, nargs="?", default=120)
    asked.add_argument("targets", nargs="*")
    asked.add_argument("--inputs", type=int, help="so many for each target")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    given = asked.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = {**readers(folder), **commands(folder)}
        chosen = {name: known[name] for name in given.targets or known}
        if given.guided:
            guided(*next(iter(chosen.items())), given.seconds)
        share = given.seconds / len(chosen)
        return min(1, sum(fuzz(*item, share, given.inputs, given.seed) for item in chosen.items()))


if __name__ == "__main__":
    sys.exit(main())
