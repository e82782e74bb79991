"""Leaves out the blocks, or the bodies of the blocks, that change a frame least."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.probes.flows import flows
from speechkit.transforms import check_components, required
from speechkit_compression.depth import TAKES, TAKES_BODIES, Step, along, spans, whole
from speechkit_compression.similarity import cosine, means

TARGETS = "body", "block"
RANKS = "cosine", "random", "reverse"


@dataclass(frozen=True)
class LayerDrop:
    """Leaves out `n` blocks, or the bodies of `n` blocks: those whose input and output are most
    alike.

    `target=body`: y = activation(shortcut(x)), the core's block `skip`; the similarity is
    cos(shortcut(x), shortcut(x) + body(x)). `target=block`: y = x, for residual blocks that return
    the width they read; the similarity is cos(x, y). It is the mean over the valid frames of the
    examples; of equal ones the first block goes first. `rank=reverse` takes the least similar, and
    `rank=random` draws by the seed; they are controls. ConfigError for a net of other components
    and for too large an `n`. Source: He et al., arXiv:2406.15786.
    """

    n: int
    target: Literal["body", "block"] = "body"
    rank: Literal["cosine", "random", "reverse"] = "cosine"

    def __post_init__(self) -> None:
        for name, known in (("target", TARGETS), ("rank", RANKS)):
            if (given := getattr(self, name)) not in known:
                raise ConfigError(f"layer_drop: {name}={given}; give {' or '.join(known)}")

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        body = self.target == "body"
        check_components("layer_drop", model.config, TAKES_BODIES if body else TAKES)
        similarity = means(self._similarities(model, required(examples, "layer_drop")))
        if not 0 <= self.n <= len(similarity):
            raise ConfigError(
                f"layer_drop: n={self.n}, target={self.target}; {len(similarity)} of the encoder's "
                f"{len(model.config.rows()) - 1} blocks can be left "
                f"{'without their body' if body else 'out'}; give n from 0 to {len(similarity)}"
            )
        chosen = sorted(self._ranked(similarity)[: self.n])
        path = [Step(block, block not in chosen) for block, _ in whole(model.config)]
        made = along(model, path if body else [step for step in path if step.body])
        return made, {"blocks": chosen, "similarity": similarity}

    def _similarities(self, model: Model, examples: Examples) -> Iterator[dict[int, Tensor]]:
        """The similarity `[N]` of each frame of a batch, for each block that may be chosen."""
        removable = spans(model.config, 1)
        for batch in flows(model, examples):
            if self.target == "block":
                yield {
                    flow.block: cosine(flow.x, flow.y) for flow in batch if flow.block in removable
                }
            else:
                yield {
                    flow.block: cosine(flow.skip, flow.skip + flow.body)
                    for flow in batch
                    if flow.skip is not None and flow.body is not None
                }

    def _ranked(self, similarity: dict[int, float]) -> list[int]:
        """The blocks, those to leave out first."""
        blocks = list(similarity)
        if self.rank == "random":
            return [blocks[index] for index in torch.randperm(len(blocks)).tolist()]
        sign = -1 if self.rank == "cosine" else 1
        return sorted(blocks, key=lambda block: sign * similarity[block])
