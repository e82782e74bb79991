"""Fits a model's edges to recordings: moves their grids, and prunes weak edges."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.data import UtteranceDataset
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model
from speechkit.nn import Chunk, Taps
from speechkit.probes import Examples
from speechkit.train import Method
from speechkit.transforms import Transform, required
from speechkit_kan.bspline import BSplineKAN
from speechkit_kan.edges import EdgeLayer

MOST_FRAMES = 4096


def edge_layers(model: Model) -> dict[str, EdgeLayer]:
    """The layers by name; ComponentError if there are none."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, EdgeLayer)}
    if not found:
        raise ComponentError(
            "this model has no layer with edges; train one with channel=bspline, cheby or "
            "relu_kan, or head=kan_dense"
        )
    return found


@torch.no_grad()
def update_grids(model: Model, audio: Tensor, lengths: Tensor | None = None) -> None:
    """Moves the grid of each `bspline` layer to the range of its input for audio `[B, N]`.

    Norms use the statistics of this batch, as in training. The edges keep their values at these
    frames.
    """
    for layer, x in _read(model, audio, lengths):
        if isinstance(layer, BSplineKAN):
            layer.update_grid(x)


def prune(keep: float = 0.5, utterances: int = 32) -> Transform:
    """A transform that keeps the share `keep` of each layer's edges: those that vary most over
    `utterances` of the recordings.

    If the model is fine-tuned, pruned edges stay pruned.
    """
    if not 0 < keep <= 1:
        raise ComponentError(f"kan_prune: keep={keep}; give a share above 0, of at most 1")

    @torch.no_grad()
    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        pruned = copy.deepcopy(model)
        for layer, x in _read(pruned, *_padded(required(examples, "kan_prune").clips(utterances))):
            spread = layer.spread(x)
            count = max(1, round(keep * spread.numel()))
            layer.kept &= spread >= spread.flatten().topk(count).values[-1]
        layers = edge_layers(pruned)
        report = {
            "edges": sum(layer.kept.numel() for layer in layers.values()),
            "kept": {name: int(layer.kept.sum()) for name, layer in layers.items()},
        }
        return pruned, report

    return apply


def _read(model: Model, audio: Tensor, lengths: Tensor | None) -> list[tuple[EdgeLayer, Tensor]]:
    """Each layer and frames `[N, C]` of its input, at most MOST_FRAMES of them, evenly spaced."""
    layers = edge_layers(model)
    # a call in training changes the running statistics
    trained = copy.deepcopy(model).train()
    with Taps({name: trained.get_submodule(name) for name in layers}) as taps:
        trained(audio, lengths)
    return [(layers[name], _spaced_frames(c)) for name, _, (c,), _ in taps.take()]


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Audio `[B, N]` and its lengths `[B]`."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    return pad_sequence(list(rows), batch_first=True), lengths


def _spaced_frames(c: Chunk) -> Tensor:
    x = c.x.transpose(1, 2)[c.valid]
    return x[:: max(1, -(-len(x) // MOST_FRAMES))]


@dataclass
class KanGrids(Method):
    """A training method: before the first step it fits the grids to `utterances` of the data."""

    utterances: int = 32

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Fits the grids."""
        if not any(isinstance(module, BSplineKAN) for module in model.modules()):
            raise TrainingError("method kan_grids needs a layer bspline, such as channel=bspline")
        step = max(1, len(dataset) // self.utterances)
        rows = [dataset.audio(i) for i in range(0, len(dataset), step)][: self.utterances]
        update_grids(model, *_padded(rows))
