"""How many zeros activations give, and what could be left out because of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.data import Batch
from speechkit.models import Model
from speechkit.nn import Chunk, Pointwise, StreamLayer, Taps


def sparsity() -> Callable[[Model, Batch], dict[str, Tensor]]:
    """A probe that looks at every activation and every `Pointwise`, over valid frames.

    `NAME/zeros` is the share of zeros an activation gives, `NAME/never` `[T]` the share of its
    channels that have been zero in the first t frames of an utterance: rows of weights that a
    sparse evaluation has not read by then. `NAME/skipped` is the share of a 1×1 product's
    multiplications that are by zero; few are where a depthwise convolution comes before it.
    Mirzadeh et al., arXiv:2310.04564.
    """

    def probe(model: Model, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            c = model.features(batch.audio, batch.lengths)
            for name, given, made in calls(model, lambda: model.score(c)):
                if name.endswith("activation"):
                    found[f"{name}/zeros"] = zeros(made)
                    found[f"{name}/never"] = never(made)
                else:
                    found[f"{name}/skipped"] = zeros(given)
        return found

    return probe


def calls(model: nn.Module, run: Callable[[], Any]) -> list[tuple[str, Chunk, Chunk]]:
    """Name, input and output of every activation and 1×1 layer of `model` while `run` runs."""
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, Pointwise)
        or (isinstance(layer, StreamLayer) and name.rpartition(".")[2] == "activation")
    }
    with Taps(layers) as taps:
        run()
    return [(name, c, made) for name, _, (c,), made in taps.take()]


def zeros(c: Chunk) -> Tensor:
    """The share of zeros in valid frames."""
    return (c.x.transpose(1, 2)[c.valid] == 0).double().mean()


def never(c: Chunk) -> Tensor:
    """The share of channels `[T]` that were zero in all valid frames up to t; mean over rows."""
    active = ((c.x != 0) & c.valid[:, None]).cummax(2).values
    return 1 - active.double().mean((0, 1))
