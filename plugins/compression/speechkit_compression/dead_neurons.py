"""The share of units whose activation is 0."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.models import Model
from speechkit.nn import StreamLayer, Taps
from speechkit.probes import Examples


def dead_neurons() -> Callable[[Model, Examples], dict[str, Tensor]]:
    """A probe of the dead units of every activation, over valid frames.

    A unit is a channel. `NAME/dynamic` is the mean over frames of the share of units whose output
    is 0; `NAME/static` is the share of units whose output is 0 in all frames. `dynamic` and
    `static` are those of all units of the net together. Source: Liu et al., arXiv:2212.06145.
    """

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, StreamLayer) and name.rpartition(".")[2] == "activation"
        }
        dead: dict[str, Tensor] = {}
        frames: Counter[str] = Counter()
        with Taps(layers) as taps:
            for _, features in examples:
                model.score(features)
                for name, _, _, c in taps.take():
                    is_zero = c.x.transpose(1, 2)[c.valid] == 0
                    dead[name] = dead.get(name, 0) + is_zero.double().sum(0)
                    frames[name] += len(is_zero)
        dynamic = {name: count / frames[name] for name, count in dead.items()}
        static = {name: (count == frames[name]).double() for name, count in dead.items()}
        found: dict[str, Tensor] = {}
        for what, units in (("dynamic", dynamic), ("static", static)):
            found |= {f"{name}/{what}": share.mean() for name, share in units.items()}
            if units:
                found[what] = torch.cat(list(units.values())).mean()
        return found

    return look
