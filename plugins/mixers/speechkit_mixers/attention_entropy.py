"""The entropy of attention, for each head."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Chunk, StreamLayer, Taps
from speechkit.probes import Examples

OVERLOADED = 0.9
"""The normalised entropy from which a head counts as overloaded; the number is ours."""


def attention_entropy(weights: Tensor, readable: Tensor, normalise: bool = False) -> Tensor:
    """H = −Σ_k p_k ln p_k of each query in nats, p = |w| / Σ|w| over the keys that it may read.

    `normalise` divides by ln of the number of these keys, so that the maximum is 1. Shape: weights
    `[B, heads, Q, K]`, readable `[B, Q, K]` bool; H `[B, heads, Q]`. Jha & Reagen,
    arXiv:2410.09637.
    """
    size = torch.where(readable[:, None], weights.abs(), 0)
    p = size / size.sum(3, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    entropy: Tensor = torch.special.entr(p).sum(3)
    if not normalise:
        return entropy
    # the entropy of a single key is 0 in any unit
    return entropy.div(readable.sum(2).clamp(min=2).log()[:, None])


def probe(normalise: bool = True) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: each head's entropy, the mean over all queries, for each layer with weights.

    `overloaded` is the share of heads whose normalised entropy is above 0.9. In nets without norms
    the first layers' heads may end there ("entropic overload"). The weights are those of
    `implicit_attention`; where these are not shares, as in a recurrence, their sizes are.
    """

    @torch.no_grad()
    def entropies(model: Model, examples: Examples) -> dict[str, Tensor]:
        layers = _layers(model)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, 1, dtype=torch.float64))
        counts: dict[str, int] = defaultdict(int)
        for _, features in examples:
            with Taps(layers) as taps:
                model.score(features)
            for name, _, (c,), _ in taps.take():
                for row, length in enumerate(c.lengths.tolist()):
                    clip = Chunk.of(c.x[row : row + 1, :, :length])
                    found = _of(layers[name], clip)
                    sums[name] = sums[name] + found.sum(2)
                    counts[name] += found.shape[2]
        means = {name: total / max(counts[name], 1) for name, total in sums.items()}
        shares = torch.cat([both[1] for both in means.values()])
        per_head = {name: both[int(normalise)] for name, both in means.items()}
        return {**per_head, "overloaded": (shares > OVERLOADED).double().mean()}

    return entropies


def _of(layer: StreamLayer, clip: Chunk) -> Tensor:
    """The entropies of a clip and their normalised values, `[2, heads, queries]`."""
    weights = layer.implicit_attention(clip)  # type: ignore[operator]
    weights = weights if weights.ndim == 4 else weights[:, None]
    queries, keys = weights.shape[2:]
    at = torch.arange(queries, device=weights.device)[:, None] * layer.stride
    after = torch.arange(keys, device=weights.device) - at
    readable = ((after >= -float(layer.left)) & (after <= float(layer.right)))[None]
    return torch.cat([attention_entropy(weights, readable, n) for n in (False, True)]).double()


def _layers(model: Model) -> dict[str, StreamLayer]:
    """The layers with `implicit_attention` that are not inside another one."""
    found: dict[str, StreamLayer] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, StreamLayer) and hasattr(module, "implicit_attention") and not inside:
            found[name] = module
    if not found:
        raise ComponentError(
            "probe attention_entropy: no layer of this model has implicit_attention; give a model "
            "with a mixer such as attention"
        )
    return found
