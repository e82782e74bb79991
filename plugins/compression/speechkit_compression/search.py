"""A search for a chain of transforms that makes a model faster or smaller."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from speechkit.card import read_card, read_transforms
from speechkit.checkpoint import load, save
from speechkit.component import Spec
from speechkit.config import from_dict, to_dict, write_json
from speechkit.data import Utterance
from speechkit.errors import ConfigError, SpeechkitError
from speechkit.io.files import atomic_file
from speechkit.io.folders import find
from speechkit.io.untrusted import UntrustedError, read_json
from speechkit.models import Model
from speechkit.plugins import registry
from speechkit.probes import Examples
from speechkit.tasks import error_of, task_of
from speechkit.tasks.evaluation import evaluate
from speechkit.transforms import transform
from speechkit_compression.pareto import front
from speechkit_compression.split import split
from speechkit_compression.step_time import step_times_s

FILE = "compress.json"
LEAST_GAIN = 0.01
"""A transform must save this share of the cost, or its result is not transformed further."""
LONGER = 4
"""How many times longer the chosen model is healed at the end."""


@dataclass(frozen=True)
class Budget:
    """A share of the original's cost: `latency` is the time of a stream, `size` the parameters."""

    cost: str
    share: float

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Reads `latency=0.5` or `size=0.5`; raises ConfigError for other text."""
        cost, _, share = text.partition("=")
        try:
            found = cls(cost, float(share))
        except ValueError:
            found = cls("", 0)
        if found.cost not in ("latency", "size") or not 0 < found.share < 1:
            raise ConfigError(f"--budget {text}: give latency=S or size=S with S between 0 and 1")
        return found


@dataclass(frozen=True)
class Candidate:
    """A model that the search made: its chain of transforms, and its figures.

    `folder` is its name in the search's folder, empty for the original. `error` is that of the task
    on the held-out recordings; `latency` and `size` are relative to the original. One that could
    not be made has a `reason` and no figures.
    """

    transforms: tuple[str, ...] = ()
    folder: str = ""
    error: float | None = None
    latency: float = 1.0
    size: float = 1.0
    reason: str = ""


@dataclass(frozen=True)
class Settings:
    """What the figures of a search depend on; they are stored beside the candidates."""

    model: str
    manifest: str
    steps: int
    seed: int = 0


@dataclass(frozen=True)
class _Stored:
    settings: Settings
    candidates: tuple[Candidate, ...]


class Search:
    """A beam search over chains of transforms, each followed by healing.

    In each round every model of the beam is given to each of `moves`, and the result is healed for
    `settings.steps` batches towards the original. The next beam has the `width` results that lose
    the least accuracy for the cost they save. The search ends when one meets the budget, or none
    saves anything. The one with the lowest error is then healed for longer.

    Every fifth of the recordings is held out for the errors; the others are for transforms and
    healing. All results stay in `out`: numbered model folders, and their figures in
    `compress.json`. A search of the same settings in that folder goes on where it ended. Raises
    ConfigError for another search's folder and ComponentError for an unknown move.
    """

    def __init__(
        self,
        settings: Settings,
        utterances: Sequence[Utterance],
        moves: Sequence[str],
        budget: Budget,
        out: Path,
        width: int = 1,
    ) -> None:
        self.settings, self.moves, self.budget, self.out = settings, moves, budget, out
        self.width = width
        if out.resolve() == Path(settings.model).resolve():
            raise ConfigError(f"--out {out} would hide the model of that name; give another --out")
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out} is a file; give a folder")
        for move in moves:
            # raises ComponentError for an unknown name or parameter
            registry().build("transform", Spec.parse(move))
        self.original = load(settings.model)
        self.train, self.dev = split(utterances, "compress")
        self.found = self._read()

    def run(self) -> Iterator[Candidate]:
        """Yields the original and each candidate when its figures are known."""
        original = self._candidate((), "")
        yield original
        beam, within = [original], list[Candidate]()
        while beam and not within:
            useful = []
            for parent, move in product(beam, self.moves):
                heal = self._heal(self.settings.steps)
                made = self._candidate((*parent.transforms, move, heal), parent.folder)
                yield made
                if made.error is not None and self.cost(made) < self.cost(parent) - LEAST_GAIN:
                    useful.append(made)
            beam = sorted(useful, key=partial(self._price, original))[: self.width]
            within = [one for one in useful if self.meets(one)]
        if within:
            best = min(within, key=_error)
            longer = (*best.transforms, self._heal(LONGER * self.settings.steps))
            yield self._candidate(longer, best.folder)

    def chosen(self) -> Candidate | None:
        """The one with the lowest error of those that meet the budget, if any."""
        return min(filter(self.meets, self.found), key=_error, default=None)

    def cost(self, one: Candidate) -> float:
        """The share that the budget limits."""
        return one.latency if self.budget.cost == "latency" else one.size

    def meets(self, one: Candidate) -> bool:
        """True if the candidate costs no more than the budget."""
        return one.error is not None and self.cost(one) <= self.budget.share

    def front(self) -> list[Candidate]:
        """The candidates, cheapest first, that no cheaper one equals in its error."""
        return front(self.found, self.cost, _error)

    def _price(self, original: Candidate, one: Candidate) -> float:
        """The error that was gained for the cost that was saved."""
        return (_error(one) - _error(original)) / (1 - self.cost(one))

    def _heal(self, steps: int) -> str:
        return str(Spec("heal", {"teacher": self.settings.model, "steps": steps}))

    def _candidate(self, chain: tuple[str, ...], parent: str) -> Candidate:
        """The candidate of a chain; `parent` is the folder of all but its last transforms."""
        for one in self.found:
            if one.transforms == chain:
                return one
        name = f"{len(self.found):03}" if chain else ""
        try:
            made = self._made(chain, parent, name) if chain else self.original
            figures = self._judged(made)
        except SpeechkitError as error:
            if not chain:
                raise
            found = Candidate(chain, reason=str(error))
        else:
            found = Candidate(chain, name, *figures)
        self.found.append(found)
        self._write()
        return found

    def _made(self, chain: tuple[str, ...], parent: str, name: str) -> Model:
        """Applies what the chain adds to its parent, and saves the model."""
        folder = self.out / parent if parent else find(self.settings.model)
        before = read_transforms(folder)
        added = chain[len(self._chain_of(parent)) :]
        model = load(folder) if parent else self.original
        made, applied = transform(
            model, added, Examples(model, self.train, seed=self.settings.seed)
        )
        card = read_card(folder)
        if card is not None:
            card = replace(card, scores=(), measured="")
        save(made, self.out / name, card, [*before, *applied])
        return made

    def _judged(self, model: Model) -> tuple[float, float, float]:
        """The error, and the latency and size relative to the original."""
        task = task_of(model)
        figures = evaluate(model, self.dev)
        both = model, self.original
        sizes = [sum(p.numel() for p in each.parameters()) for each in both]
        times = [1.0, 1.0] if model is self.original else step_times_s(both)
        return error_of(task, figures), times[0] / times[1], sizes[0] / sizes[1]

    def _chain_of(self, folder: str) -> tuple[str, ...]:
        return next(one.transforms for one in self.found if one.folder == folder)

    def _read(self) -> list[Candidate]:
        """The candidates of an earlier search in the folder, which must have the same settings."""
        path = self.out / FILE
        if not path.is_file():
            return []
        try:
            stored = from_dict(_Stored, read_json(path), str(path))
        except UntrustedError as error:
            raise ConfigError(f"{path}: {error}; give another --out") from error
        if stored.settings != self.settings:
            theirs = ", ".join(f"{k}={v}" for k, v in vars(stored.settings).items())
            raise ConfigError(
                f"{path} is of a search with other settings, {theirs}; give another --out"
            )
        return list(stored.candidates)

    def _write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.out / FILE) as part:
            write_json(part, to_dict(_Stored(self.settings, tuple(self.found))))


def _error(one: Candidate) -> float:
    return math.inf if one.error is None else one.error
