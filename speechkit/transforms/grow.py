"""Adds a block to a trained net; the block starts as the identity."""

from typing import Any

import torch
from torch import Tensor

from speechkit.errors import ConfigError
from speechkit.models import Block, Model, Net
from speechkit.models.net import PARTS
from speechkit.nn import Taps
from speechkit.plugins import registry
from speechkit.probes import Examples
from speechkit.transforms import check_components, required
from speechkit.transforms.rows import Row, with_rows

TAKES = {
    "stack": ("core/serial",),
    "block": ("core/plain",),
    "activation": ("core/relu",),
}
"""The components of a net whose blocks return what a ReLU does not change."""
OWN = {"merge": "core/add", "channel": "core/linear", "norm": "core/batch"}
"""The parts of the new block, which may differ from the net's."""


class Grow:
    """Adds a residual block after block `after` of the encoder, counted from 0; no score changes.

    y = relu(norm_0(x) + norm_1(body(x))). norm_1 has the gain 0, so the body starts as 0. norm_0
    has the statistics of x over the examples, and the gain and bias that cancel them. x is at least
    0, so relu returns it. `kernel` and `repeat` are those of block `after` unless given;
    `lookahead` is that of each convolution, in frames. The new block has `norm=batch`,
    `channel=linear` and `merge=add` in every net. ConfigError for a net of another stack, block or
    activation.
    Source: Chen et al., Net2Net, arXiv:1511.05641.
    """

    def __init__(
        self, after: int, kernel: int | None = None, repeat: int | None = None, lookahead: int = 0
    ) -> None:
        self.after, self.kernel, self.repeat, self.lookahead = after, kernel, repeat, lookahead

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        examples = required(examples, "grow")
        rows, place = self._deeper(model.config), self.after + 1
        origins = [*range(place + 1), None, *range(place + 1, len(rows) - 1)]
        made = with_rows(model, rows, origins, examples.seed)
        mean, variance = _statistics(model, f"encoder.{self.after}", examples)
        block: Any = made.get_submodule(f"encoder.{place}")
        shortcut, norm, last = block.sum.shortcut, block.sum.shortcut.norm, block.sum.body[-1].norm
        with torch.no_grad():
            shortcut.channel.weight.copy_(torch.eye(len(mean)))
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean)
            last.weight.zero_()
            last.bias.zero_()
        added = sum(x.numel() for x in block.parameters())
        return made, {"block": place, "parameters": added}

    def _deeper(self, config: Net) -> list[Row]:
        """The rows of the net with the new block."""
        check_components("grow", config, TAKES)
        rows = config.rows()
        if not 0 <= self.after < len(rows) - 1:
            raise ConfigError(
                f"grow: after={self.after}; give one of the {len(rows) - 1} blocks behind the "
                "stem, from 0"
            )
        row, _ = rows[self.after + 1]
        own: dict[str, Any] = {
            part: name for part, name in OWN.items() if not _is(config, PARTS[part], name)
        }
        new = Block(
            channels=row.channels,
            kernel=self.kernel or row.kernel,
            repeat=self.repeat or row.repeat,
            residual=True,
            **own,
        )
        rows.insert(self.after + 2, (new, self.lookahead))
        return rows


def _is(config: Net, kind: str, name: str) -> bool:
    """True if the net's component of a kind is the one of this full name."""
    return registry().find(kind, getattr(config, kind).name).qualified_name == name


def _statistics(model: Model, layer: str, examples: Examples) -> tuple[Tensor, Tensor]:
    """Mean and variance `[C]` of a layer's output over the valid frames of the examples."""
    sums: list[Tensor] = []
    with Taps({layer: model.get_submodule(layer)}) as taps, torch.no_grad():
        for _, features in examples:
            model.score(features)
            ((_, _, _, c),) = taps.take()
            x = c.x.transpose(1, 2)[c.valid].double()
            sums.append(torch.stack([torch.ones_like(x).sum(0), x.sum(0), x.square().sum(0)]))
    frames, total, squares = torch.stack(sums).sum(0)
    mean = total / frames
    return mean, (squares / frames - mean.square()).clamp(min=0)
