"""Blocks of a trained net that become blocks `mod`, chosen by the rank of their updates."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.transforms import check_components, required
from speechkit.transforms.rows import with_rows
from speechkit_residuals.mod import arank

TAKES = {"block": ("core/plain",), "stack": ("core/serial",), "channel": ("core/linear",)}
"""The components of a net in which blocks can become `mod`."""


@dataclass(frozen=True)
class ModLayers:
    """Makes blocks `mod` of the `layers` blocks whose updates have the lowest effective rank.

    The rank is that of the probe `arank` over the examples. The first `keep_first` blocks of the
    encoder and the last `keep_last`, and those that change the shape, stay as they are. The weights
    of all blocks are kept. The new feed-forward layers start as 0, so no score changes until they
    are trained. ConfigError for a net of other components or without that many blocks. Luo et al.,
    arXiv:2410.13859.
    """

    layers: int
    keep_first: int = 3
    keep_last: int = 1
    capacity: float = 0.5
    expand: int = 4

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        check_components("mod_layers", model.config, TAKES)
        examples = required(examples, "mod_layers")
        ranks = {int(name): float(rank) for name, rank in arank()(model, examples).items()}
        rows = model.config.rows()
        chosen = self._lowest(ranks, len(rows) - 1)
        block = Spec("mod", {"capacity": self.capacity, "expand": self.expand})
        for index in chosen:
            row, ahead = rows[index + 1]
            rows[index + 1] = replace(row, block=block), ahead
        # a block `mod` has the plain block in it
        made = with_rows(
            model,
            rows,
            range(len(rows)),
            examples.seed,
            old_name=lambda n: n.removeprefix("block."),
        )
        for index in chosen:
            narrow: Any = made.get_submodule(f"encoder.{index}.routed.feed_forward.narrow")
            torch.nn.init.zeros_(narrow.weight)
        return made, {"blocks": chosen, "ranks": {str(n): rank for n, rank in ranks.items()}}

    def _lowest(self, ranks: dict[int, float], count: int) -> list[int]:
        """The blocks with the lowest rank of those that may change, in the net's order."""
        free = [n for n in ranks if self.keep_first <= n < count - self.keep_last]
        if not 1 <= self.layers <= len(free):
            raise ConfigError(
                f"transform mod_layers: layers={self.layers}; {len(free)} of the encoder's {count} "
                f"blocks keep their shape and are behind the first {self.keep_first} and before "
                f"the last {self.keep_last}; give fewer layers, or a smaller keep_first or "
                "keep_last"
            )
        return sorted(sorted(free, key=lambda n: ranks[n])[: self.layers])
