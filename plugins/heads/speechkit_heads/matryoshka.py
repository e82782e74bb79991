"""A head that can score by its first channels alone, its method, and a net cut to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.component import Spec
from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import ComponentError, ConfigError, TrainingError
from speechkit.models import Model, Output, build
from speechkit.models.net import Name, Net
from speechkit.nn import Chunk, Pointwise, PooledHead, StreamLayer, Taps
from speechkit.plugins import registry
from speechkit.probes import Examples
from speechkit.tasks import task_of
from speechkit.train import Method


class MatryoshkaHead(PooledHead):
    """y = W z + b of pooled channels z, and of the first m of them, for each m in `nesting`.

    Prefix m has the logits W[:, :m] z[:m] + b. Shape: `[B, C, T]` → `[B, labels, 1]`. Kusupati et
    al., arXiv:2205.13147 (its MRL-E, with one W).
    """

    linear: Pointwise

    def __init__(self, pool: StreamLayer, linear: Pointwise, nesting: tuple[int, ...]) -> None:
        super().__init__(pool, linear)
        self.nesting = nesting

    def prefix(self, pooled: Chunk, channels: int) -> Tensor:
        """The logits `[B, labels]` of the first `channels` of pooled ones `[B, C, 1]`."""
        return F.linear(
            pooled.x[:, :channels, 0], self.linear.weight[:, :channels], self.linear.bias
        )


def matryoshka(
    channels: int, labels: int, nesting: int = 8, pool: Spec | str = "average"
) -> MatryoshkaHead:
    """A `MatryoshkaHead` with prefixes of nesting, 2 · nesting, 4 · nesting, … and all channels."""
    if nesting < 1:
        raise ComponentError(f"head matryoshka: nesting={nesting}; give 1 or more channels")
    lengths = [channels]
    while nesting < channels:
        lengths.insert(-1, nesting)
        nesting *= 2
    linear = Pointwise(channels, labels, bias=True)
    return MatryoshkaHead(registry().build("pool", pool, channels), linear, tuple(lengths))


@dataclass
class Matryoshka(Method):
    """Adds Σ_m loss(W[:, :m] z[:m] + b, y) over the prefixes m of a head `matryoshka`.

    The run's own loss is that of all channels. Kusupati et al., arXiv:2205.13147.
    """

    loss: Name = "cross_entropy"

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        if not isinstance(model.head, MatryoshkaHead):
            raise TrainingError(
                f"{self.component}: the head is {model.config.head}; give head=matryoshka"
            )
        self.head = model.head
        self.task = task_of(model)
        self.function = registry().build("loss", self.loss)
        self.taps = Taps({"pool": model.head.pool}, training_only=True)

    def extra_loss(self, batch: Batch, output: Output, *features: Any) -> Tensor | None:
        (call,) = self.taps.take()
        targets = self.task.targets(batch, output)
        losses = [
            self.function(self.head.prefix(call.output, m), output.lengths, *targets)
            for m in self.head.nesting[:-1]
        ]
        return torch.stack(losses).sum(0) if losses else None


class Prefix:
    """A net with the head `matryoshka`, cut to the first `channels` of its last row.

    Its scores are those of this prefix, and the last row computes no other channels. ConfigError
    for another head, for channels that there are not, and where the channels of the last row
    depend on each other, as with a norm over channels.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels

    @torch.no_grad()
    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        head = model.head
        if not isinstance(head, MatryoshkaHead):
            raise ConfigError(
                f"transform prefix: the head is {model.config.head}; train a net with "
                "head=matryoshka"
            )
        if not 1 <= self.channels < head.nesting[-1]:
            raise ConfigError(
                f"transform prefix: channels={self.channels}; give 1 to {head.nesting[-1] - 1}"
            )
        made = build(self._narrower(model.config)).eval()
        wanted = {name: x.shape for name, x in made.state_dict().items()}
        made.load_state_dict(
            {name: x[tuple(map(slice, wanted[name]))] for name, x in model.state_dict().items()}
        )
        features = Chunk.of(torch.randn(2, model.frontend.channels_out(1), 100))
        pooled = head.pool(model.encoder(model.stem(features)))
        expected, scores = head.prefix(pooled, self.channels), made.score(features).scores
        if not torch.allclose(scores, expected, rtol=1e-3, atol=1e-4):
            raise ConfigError(
                "transform prefix: the channels of the last row depend on each other; give it a "
                "plain block of one layer with norm=batch"
            )
        removed = sum(x.numel() for x in model.parameters()) - sum(
            x.numel() for x in made.parameters()
        )
        return made, {"channels": self.channels, "parameters_removed": removed}

    def _narrower(self, config: Net) -> Net:
        *rows, (last, ahead) = config.rows()
        rows.append((replace(last, channels=self.channels), ahead))
        blocks, aheads = zip(*rows, strict=True)
        return replace(config, size="custom", blocks=blocks, lookahead=aheads)
