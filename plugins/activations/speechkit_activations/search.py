"""A search for activations: trains a model for each formula and keeps a leaderboard in a file."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechkit.component import Spec
from speechkit.config import from_dict, write_json
from speechkit.errors import ConfigError, SpeechkitError
from speechkit.io.files import atomic_file
from speechkit.io.untrusted import UntrustedError, read_json
from speechkit_activations.compose import BINARY, UNARY

if TYPE_CHECKING:
    from speechkit.train import Run

Judge = Callable[[str], float]
"""The error of a formula; raises SpeechkitError if it cannot be trained."""

POPULATION = 10
CONTEST = 3


@dataclass(frozen=True)
class Row:
    """A row of the leaderboard: a formula, and its error or the reason why it has none."""

    formula: str
    error: float | None
    reason: str


@dataclass
class Leaderboard:
    """The errors of formulas, best first, in a JSON file that is written after each formula.

    `errors` holds None for a formula that failed, and `reasons` the reason. If the file exists, the
    search continues: formulas in it are not trained again.
    """

    path: Path
    judge: Judge
    errors: dict[str, float | None] = field(default_factory=dict, init=False)
    reasons: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.path.is_file():
            try:
                stored = read_json(self.path)
            except UntrustedError as error:
                raise ConfigError(f"{self.path}: {error}; choose another file") from error
            for row in from_dict(list[Row], stored, str(self.path)):
                self._note(row.formula, row.error, row.reason)

    def error(self, formula: str) -> float | None:
        """The formula's error; None if it failed."""
        if formula not in self.errors:
            try:
                self._note(formula, self.judge(formula), "")
            except SpeechkitError as error:
                self._note(formula, None, str(error))
            with atomic_file(self.path) as part:
                write_json(part, self.rows())
        return self.errors[formula]

    def rows(self) -> list[dict[str, str | float | None]]:
        """Formulas, errors and reasons, best first and failures last."""
        order = sorted(self.errors, key=lambda formula: worth(self.errors[formula]))
        return [
            {"formula": f, "error": self.errors[f], "reason": self.reasons.get(f, "")}
            for f in order
        ]

    def _note(self, formula: str, error: float | None, reason: str) -> None:
        self.errors[formula] = error
        if reason:
            self.reasons[formula] = reason


def exhaustive(board: Leaderboard, formulas: Sequence[str], budget: int) -> None:
    """Trains the first `budget` formulas."""
    for formula in formulas[:budget]:
        board.error(formula)


def evolution(board: Leaderboard, budget: int, seed: int = 0) -> None:
    """Trains `budget` formulas of one or two units: ten at random, then mutations of good ones.

    A mutation starts from the best of three random formulas of the population. It changes one name,
    or adds or removes a unit. It replaces the oldest formula. Real et al., arXiv:1802.01548.
    """
    chance = random.Random(seed)
    population: list[str] = []
    for index in range(budget):
        if index < POPULATION:
            child = unit(chance)
        else:
            rivals = chance.sample(population, CONTEST)
            child = mutated(min(rivals, key=lambda f: worth(board.error(f))), chance)
        board.error(child)
        population = [*population, child][-POPULATION:]


def mutated(formula: str, chance: random.Random) -> str:
    """The formula with one name changed, or with a second unit added or removed."""
    units = formula.split("; ")
    if chance.random() < 0.2:
        return units[0] if len(units) > 1 else f"{units[0]}; {unit(chance)}"
    index = chance.randrange(len(units))
    words = units[index].split()
    place = chance.randrange(3)
    words[place] = chance.choice(sorted(BINARY if place == 1 else UNARY))
    units[index] = " ".join(words)
    return "; ".join(units)


def unit(chance: random.Random) -> str:
    """A random unit: two functions and a binary operation."""
    first, second = chance.choices(sorted(UNARY), k=2)
    return f"{first} {chance.choice(sorted(BINARY))} {second}"


def worth(error: float | None) -> float:
    """The sort key: failures come last."""
    return float("inf") if error is None else error


def judge_by(run: "Run", out: Path) -> Judge:
    """Trains `run` with the formula as its activation, in a separate folder under `out`."""

    def judge(formula: str) -> float:
        from speechkit.checkpoint import load
        from speechkit.tasks import task_of
        from speechkit.train import fit

        activation = Spec("activations/composed", {"formula": formula})
        folder = out / formula.replace(";", "").replace(" ", "-")
        changed = replace(run, model=replace(run.model, activation=activation))
        metrics = fit(changed, folder, resume=(folder / "run.json").is_file())
        return task_of(load(folder / "best")).error(metrics)

    return judge
