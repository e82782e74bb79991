"""A shorter path through the blocks of a net, found on one half of the recordings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechkit.data import Batch
from speechkit.errors import ConfigError
from speechkit.models import Model
from speechkit.nn import Chunk
from speechkit.probes import Examples
from speechkit.tasks import task_of
from speechkit.transforms import check_components, required
from speechkit_compression.depth import TAKES_BODIES, along, bodies, spans
from speechkit_compression.norm_statistics import estimate
from speechkit_compression.pareto import front
from speechkit_compression.path_tree import MOST_BLOCKS, Actions, Node, Path, length

Half = Sequence[tuple[Batch, Chunk]]


@dataclass(frozen=True)
class Cola:
    """A net that runs at least `n` blocks fewer: of the paths tried, the one that is right most
    often on every second recording, half A.

    On a path up to four adjacent blocks are left out, or run 2 to 4 times one after another. Of a
    block that is left out the shortcut remains, the core's block `skip`; one that is repeated
    becomes rows of equal weights. Monte Carlo tree search tries a path per simulation. Its reward
    is the share of the half whose prediction equals the reference. The batch norms of a path get
    the statistics of the half. The report has the accuracy on both halves, and for how many
    recordings of half A any path is right. In the paper each recording has its own path.
    ConfigError for a net of other components, too large an `n`, fewer than two recordings, and
    a task without one prediction per recording. Source: Li et al., arXiv:2507.07996.
    """

    n: int = 1
    simulations: int = 200

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        root = self._root(model)
        half_a, half_b = _halves(required(examples, "cola"))

        def net(path: Path) -> Model:
            if path == root.path:
                return model
            made = along(model, path)
            estimate(made, (features for _, features in half_a))
            return made

        right: dict[Path, Tensor] = {}

        def reward(path: Path) -> float:
            if path not in right:
                right[path] = _right(net(path), half_a)
            return _share(right[path])

        reward(root.path)
        root.search(reward, self.simulations)
        best_first = front(right, length, lambda path: -reward(path))[::-1]
        most = length(root.path) - self.n
        chosen = next((path for path in best_first if length(path) <= most), None)
        if chosen is None:
            raise ConfigError(
                f"cola: none of the {len(right)} paths runs at most {most} blocks; give more than "
                f"{self.simulations} simulations, or a smaller n"
            )

        def judged(path: Path) -> dict[str, Any]:
            return {
                "path": text(path),
                "blocks": length(path),
                "half_a": reward(path),
                "half_b": _share(_right(net(path), half_b)),
            }

        return net(chosen), {
            "whole": judged(root.path),
            "chosen": judged(chosen),
            "pareto": [judged(path) for path in best_first],
            "paths": len(right),
            "oracle": oracle(right, root.path),
        }

    def _root(self, model: Model) -> Node:
        """The root of the tree, the path of all blocks."""
        check_components("cola", model.config, TAKES_BODIES)
        skippable = bodies(model.config)
        if not 1 <= self.n <= len(skippable):
            raise ConfigError(
                f"cola: n={self.n}; {len(skippable)} of the encoder's blocks can be left without "
                f"their body; give n from 1 to {len(skippable)}"
            )
        loops = {count: spans(model.config, count) for count in range(1, MOST_BLOCKS + 1)}
        return Node(Actions(len(model.config.rows()) - 1, frozenset(skippable), loops))


def oracle(right: dict[Path, Tensor], whole: Path) -> dict[str, float]:
    """Shares of the recordings: those that the whole net gets right, those of them that a shorter
    path gets right too, and those of the others that some path gets right."""
    known = right[whole]
    shorter = [one for path, one in right.items() if length(path) < length(whole)]
    by_shorter = torch.stack([*shorter, torch.zeros_like(known)]).any(0)
    by_any = torch.stack(list(right.values())).any(0)
    return {
        "right": _share(known),
        "right_by_a_shorter": _share(by_shorter[known]),
        "wrong_made_right": _share(by_any[~known]),
    }


def text(path: Path) -> str:
    """The blocks of a path; one in brackets is without its body."""
    return " ".join(str(block) if body else f"({block})" for block, body in path)


def _share(found: Tensor) -> float:
    return found.double().mean().item() if len(found) else 0.0


def _halves(examples: Examples) -> tuple[Half, Half]:
    """The batches and features of every second recording, and of the others."""
    utterances = examples.utterances
    if len(utterances) < 2:
        raise ConfigError("cola: one recording; give at least two, which become two halves")
    one, other = (
        list(Examples(examples.model, utterances[start::2], batch_size=examples.batch_size))
        for start in (0, 1)
    )
    batch, features = one[0]
    # raises ManifestError if a recording has no target
    examples.targets(examples.model.score(features), batch)
    return one, other


@torch.no_grad()
def _right(model: Model, half: Half) -> Tensor:
    """Whether the prediction for each recording is the reference, `[recordings]`."""
    task = task_of(model)
    found: list[bool] = []
    for batch, features in half:
        output = model.score(features)
        pairs = task.references(batch, output), task.predictions(output)
        if {len(each) for each in pairs} != {len(batch.lengths)}:
            raise ConfigError(
                f"cola: task {model.config.task} has no prediction for a whole recording; give "
                "a net that labels or transcribes recordings"
            )
        found += [reference == prediction for reference, prediction in zip(*pairs, strict=True)]
    return torch.tensor(found)
