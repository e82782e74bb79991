"""A trained net with another activation, one place after another."""

from dataclasses import dataclass
from typing import Any

from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.transforms import required
from speechkit_compression.healing import heal
from speechkit_compression.likeness import likeness
from speechkit_compression.relu_surgery import (
    activations,
    qualified,
    refuse_gate,
    with_activations,
)

ORDERS = "last_to_first", "first_to_last", "all"


@dataclass(frozen=True)
class SwapActivation:
    """Puts the activation `to` in place of all others, and heals the net after each of them.

    Stage k has k of them swapped. It is trained for `steps` batches of the examples towards the
    scores of the original. With `order=all` there is one stage. ConfigError for a net without
    another activation, for gated ones and for blocks other than `plain`. Source: Tayaranian et al.,
    arXiv:2402.01169. There the bias before the activation is removed too; here it stays.
    """

    to: str = "relu"
    order: str = "last_to_first"
    steps: int = 50

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ConfigError(
                f"swap_activation: order={self.order}; give one of {', '.join(ORDERS)}"
            )
        if self.steps < 0:
            raise ConfigError(f"swap_activation: steps={self.steps}; give at least 0")

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        examples = required(examples, "swap_activation")
        found, to = activations(model.config, "swap_activation"), Spec.parse(self.to)
        refuse_gate(to, "swap_activation")
        places = [n for n, each in enumerate(found) if not _is(each.spec, to)]
        if not places:
            raise ConfigError(f"transform swap_activation: every activation is {to} already")
        if self.order == "last_to_first":
            places.reverse()
        specs, made, stages = [each.spec for each in found], model, []
        for stage in [places] if self.order == "all" else [[place] for place in places]:
            for place in stage:
                specs[place] = to
            made = with_activations(made, specs, examples.seed)
            losses = heal(made, model, examples, self.steps)
            stages.append(
                {
                    "swapped": [f"row {found[n].row} sub-block {found[n].sub}" for n in stage],
                    "first_loss": losses[0] if losses else None,
                    "divergence": likeness(made, model, examples).divergence,
                }
            )
        before = sorted({str(found[place].spec) for place in places})
        return made, {"before": before, "after": str(to), "stages": stages}


def _is(spec: Spec, to: Spec) -> bool:
    return qualified(spec) == qualified(to) and spec.params == to.params
