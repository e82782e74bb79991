"""Model cards: what a model is for, what it was made from, how good it is and where it fails.

A second file holds the reports of the transforms that made the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechkit.config import from_dict, to_dict
from speechkit.errors import CheckpointError, ConfigError
from speechkit.io.untrusted import UntrustedError, read_json
from speechkit.limits import MAX_CARD_BYTES, MAX_TRANSFORMS_BYTES

CARD = "card.json"
"""The card's file in a model folder."""
TRANSFORMS = "transform.json"
"""The file with the reports of transforms in a model folder."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A figure in `unit`, what it was measured on, and the command that measured it.

    `interval` is the 95 % confidence interval of `value`, its low and its high end, in `unit`.
    """

    name: str
    value: float
    unit: str = ""
    interval: tuple[float, float] | None = None
    on: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        ends = self.interval
        if ends is not None and not (len(ends) == 2 and ends[0] <= self.value <= ends[1]):
            shown = ", ".join(f"{end:g}" for end in ends)
            raise ConfigError(
                f"score {self.name!r:.40} is {self.value:g} with the interval [{shown}]; "
                "give [low, high] around the value, in its unit"
            )

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.figure} ({self.on})" if self.on else f"{self.name}: {self.figure}"
        )

    @property
    def figure(self) -> str:
        """The value with its unit and, if it has one, its interval."""
        unit = self.unit and f" {self.unit}"
        if not self.interval:
            return f"{self.value:g}{unit}"
        low, high = self.interval
        return f"{self.value:g}{unit}, 95 % CI {low:g} to {high:g}{unit}"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The facts of a model that its config does not hold; only `purpose` is required.

    `purpose` is one line that continues a sentence after the model's name: "reads ...". `licence`
    is that of the weights, `data` names each source with its licence, `commands` are those that
    made the weights, and `measured` is the date of the scores. The first of `scores` is the main
    one, which tables of models show.
    """

    purpose: str
    domain: str = ""
    data: tuple[str, ...] = ()
    licence: str = ""
    commands: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    measured: str = ""
    scores: tuple[Score, ...] = ()
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AppliedTransform:
    """A transform that made a model: its name with parameters, its plugin's version, its report."""

    name: str
    version: str
    report: dict[str, Any]


def read_card(folder: Path) -> ModelCard | None:
    """The card in a model folder, None where there is none; CheckpointError for a damaged one."""
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        card: ModelCard = from_dict(ModelCard, read_json(path, most=MAX_CARD_BYTES), str(path))
    except (UntrustedError, ConfigError) as error:
        raise CheckpointError(f"{path} is not a model card: {error}") from error
    # another character could move a terminal's cursor, or end the one line of `purpose`
    if not all(text.isprintable() for text in _texts(to_dict(card))):
        raise CheckpointError(f"{path} holds a control character; write plain text")
    return card


def read_transforms(folder: Path) -> list[AppliedTransform]:
    """The transforms that made the model in a folder, in order; CheckpointError if damaged."""
    path = folder / TRANSFORMS
    if not path.is_file():
        return []
    try:
        stored = read_json(path, most=MAX_TRANSFORMS_BYTES)
        applied: list[AppliedTransform] = from_dict(list[AppliedTransform], stored, str(path))
    except (UntrustedError, ConfigError) as error:
        raise CheckpointError(f"{path} holds no reports of transforms: {error}") from error
    return applied


def bundled_folders() -> list[Path]:
    """The folders of the models that ship with the package, by name."""
    models = Path(__file__).parent / "bundled" / "models"
    return sorted(models.iterdir()) if models.is_dir() else []


def bundled_models() -> dict[str, ModelCard]:
    """The card of each bundled model by the name that `sk.load` takes."""
    folders = bundled_folders()
    return {folder.name: card for folder in folders if (card := read_card(folder))}


def _texts(value: Any) -> Iterator[str]:
    """Every string within plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
