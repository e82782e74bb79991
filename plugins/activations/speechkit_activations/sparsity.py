"""Counts the zeros in the output of activations, and the products that they save."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.models import Model
from speechkit.nn import Chunk, Pointwise, StreamLayer, Taps
from speechkit.probes import Examples


def sparsity() -> Callable[[Model, Examples], dict[str, Tensor]]:
    """A probe of every activation and every `Pointwise`, over valid frames.

    `NAME/zeros` is the share of zeros in an activation's output. `NAME/never` `[T]` is the share of
    its channels that are zero in all of the first t frames of an utterance: a sparse evaluation has
    not read their rows of weights by then. `NAME/skipped` is the share of a 1×1 layer's products
    that are by zero; it is small after a depthwise convolution. Mirzadeh et al., arXiv:2310.04564.
    """

    @torch.no_grad()
    def probe(model: Model, examples: Examples) -> dict[str, Tensor]:
        counts: dict[str, Tensor] = {}
        unused: dict[str, list[Tensor]] = {}
        for _, features in examples:
            for name, read, made in calls(model, partial(model.score, features)):
                is_activation = name.endswith("activation")
                key = f"{name}/zeros" if is_activation else f"{name}/skipped"
                counts[key] = counts.get(key, 0) + zeros(made if is_activation else read)
                if is_activation:
                    unused.setdefault(f"{name}/never", []).append(never(made))
        shares = {key: count / total for key, (count, total) in counts.items()}
        return {**shares, **{key: _mean_of_rows(rows) for key, rows in unused.items()}}

    return probe


def calls(model: nn.Module, run: Callable[[], Any]) -> list[tuple[str, Chunk, Chunk]]:
    """Name, input and output of every activation and 1×1 layer of `model` during `run`."""
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
    """The number of zeros and of all values in valid frames, `[2]`."""
    values = c.x.transpose(1, 2)[c.valid]
    count = values.new_tensor(values.numel(), dtype=torch.float64)
    return torch.stack([(values == 0).double().sum(), count])


def never(c: Chunk) -> Tensor:
    """The share of channels `[B, T]` of each row that are zero in all valid frames up to t; T is
    the number of frames of the longest row."""
    active = ((c.x != 0) & c.valid[:, None])[:, :, : int(c.lengths.max())].cummax(2).values
    return 1 - active.double().mean(1)


def _mean_of_rows(parts: list[Tensor]) -> Tensor:
    """The mean over the rows of `[B, T]` of all batches; a shorter row stays at its last value."""
    longest = max(rows.shape[1] for rows in parts)
    return torch.cat([F.pad(r, (0, longest - r.shape[1]), mode="replicate") for r in parts]).mean(0)
