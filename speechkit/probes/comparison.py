"""Two models under the same probes: the differences of their numbers, and how sure they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

from torch import Tensor

from speechkit.component import Spec
from speechkit.errors import ComponentError, ManifestError
from speechkit.models import Model
from speechkit.probes import Examples, probe

PARTS = 8
QUANTILES = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365
"""The 97.5 % quantiles of Student's t with 1 to 7 degrees of freedom."""


@dataclass(frozen=True)
class Difference:
    """A number of both models, and the difference other − model with its interval of 95 %.

    Model and other are measured on the same eight parts of the utterances. The numbers are the
    means over the parts, and the interval is that of Student's t for the paired differences. A part
    where one of the numbers is not finite is left out; without two parts there is no interval.
    """

    model: float
    other: float
    difference: float
    low: float | None
    high: float | None


def compare(
    model: Model, other: Model, specs: Iterable[Spec | str], examples: Examples
) -> dict[str, dict[str, Difference]]:
    """The difference of each scalar that both models have, by the probe and by its name.

    Raises ManifestError for fewer than two utterances, and ComponentError if a probe needs more
    than there are in a part.
    """
    count = min(PARTS, len(examples.utterances))
    if count < 2:
        raise ManifestError(f"{count} utterance; a comparison needs at least 2")
    asked = list(specs)
    found = []
    for index in range(count):
        part = Examples(
            model,
            examples.utterances[index::count],
            seed=examples.seed,
            batch_size=examples.batch_size,
        )
        try:
            found.append((probe(model, asked, part), probe(other, asked, part)))
        except ComponentError as error:
            raise ComponentError(
                f"a comparison measures {count} parts of the utterances, this one of "
                f"{len(part.utterances)}: {error}; or give more utterances"
            ) from error
    names = {
        name: dict.fromkeys(key for one, _ in found for key, x in one[name].items() if not x.ndim)
        for name in found[0][0]
    }
    return {
        name: {
            key: difference
            for key in keys
            if (difference := difference_of([_pair(both, name, key) for both in found]))
        }
        for name, keys in names.items()
    }


def _pair(
    both: tuple[dict[str, dict[str, Tensor]], ...], name: str, key: str
) -> tuple[float, float]:
    one, other = (float(each[name].get(key, math.nan)) for each in both)
    return one, other


def difference_of(pairs: list[tuple[float, float]]) -> Difference | None:
    """The difference of pairs (model, other); None without a pair of finite numbers."""
    known = [(one, other) for one, other in pairs if math.isfinite(one) and math.isfinite(other)]
    if not known:
        return None
    each = [other - one for one, other in known]
    middle, low, high = mean(each), None, None
    if len(each) > 1:
        reach = QUANTILES[len(each) - 2] * stdev(each) / math.sqrt(len(each))
        low, high = middle - reach, middle + reach
    one, other = (mean(side) for side in zip(*known, strict=True))
    return Difference(one, other, middle, low, high)
