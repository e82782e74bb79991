"""The path of a frame through blocks of one width."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Chunk
from speechkit.probes import Examples
from speechkit.probes.flows import Flow, Flows


def stream_dynamics(push: float = 0.1) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: how frames move from block to block, over the longest row of blocks of one width.

    h_0 is the input of that row and h_l the output of its block l, over the valid frames:

        cosine       mean cosine of h_l and h_{l+1}
        correlation  mean over channels of Pearson's r between h_l and h_{l+1}
        speed        mean ‖h_{l+1} − h_l‖ / ‖h_l‖, over frames where h_l is not 0
        winding      mean turns of a frame around the origin, |Σ angle| / 2π, in the plane of the
                     first two principal components of all states
        push         ‖h'_L − h_L‖ / ‖δ‖ if a random δ of length `push` ‖h_l‖ is added to every frame
                     of h_l, for each l before L, over frames where h_l is not 0; below 1 the
                     blocks attract

    Fernando and Guitchounts, arXiv:2502.12131. ComponentError without two blocks of one width.
    """
    if not 0 < push < math.inf:
        raise ComponentError(f"probe stream_dynamics: push={push}; give a number above 0")

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(examples.seed)
        kept: list[list[Tensor]] = []
        ratios: list[list[Tensor]] = []
        first = -1
        # one at a time, so that the drawn displacements do not depend on the size of a batch
        for _, features in Examples(model, examples.utterances, batch_size=1):
            with Flows(model) as record:
                model.score(features)
            row = _row(model, record.take())
            first = row[0].block
            kept.append([row[0].x, *(flow.y for flow in row)])
            ratios.append(_pushes(model, features, row, push, chance))
        states = [torch.cat(parts).double().cpu() for parts in zip(*kept, strict=True)]
        steps = list(pairwise(states))
        return {
            "first_block": torch.tensor(first),
            "cosine": torch.stack([F.cosine_similarity(a, b, 1).mean() for a, b in steps]),
            "correlation": torch.stack([_correlation(a, b) for a, b in steps]),
            "speed": torch.stack([_speed(a, b) for a, b in steps]),
            "winding": winding(torch.stack(states)),
            "push": torch.stack([torch.cat(parts).mean() for parts in zip(*ratios, strict=True)]),
        }

    return look


def winding(states: Tensor) -> Tensor:
    """The mean over frames of |Σ angle| / 2π in the plane of the first two principal components.

    Shape: states `[L, frames, C]`.
    """
    flat = states.flatten(0, 1)
    plane = torch.linalg.svd(flat, full_matrices=False).Vh[:2]
    x, y = (states @ plane.T).unbind(2)
    turn: Tensor = torch.atan2(x[:-1] * y[1:] - y[:-1] * x[1:], x[:-1] * x[1:] + y[:-1] * y[1:])
    return turn.sum(0).abs().mean() / (2 * math.pi)


def _row(model: Model, flows: list[Flow]) -> list[Flow]:
    """The longest row of blocks that keep width and rate."""
    blocks: Any = model.encoder
    best: list[Flow] = []
    row: list[Flow] = []
    for flow in flows:
        # a clip of one frame has one frame behind a stride, too
        same = blocks[flow.block].stride == blocks[flow.block].rate
        row = [*row, flow] if same and flow.x.shape == flow.y.shape else []
        best = max(best, row, key=len)
    if len(best) < 2:
        raise ComponentError(
            "probe stream_dynamics: the model has no two blocks in a row that keep their width; "
            "give a deeper one"
        )
    return best


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    a, b = (x - x.mean(0) for x in (one, other))
    sizes = (a.square().sum(0) * b.square().sum(0)).sqrt()
    r: Tensor = ((a * b).sum(0)[sizes > 0] / sizes[sizes > 0]).mean()
    return r


def _speed(one: Tensor, other: Tensor) -> Tensor:
    sizes = one.norm(dim=1)
    speed: Tensor = ((other - one).norm(dim=1) / sizes)[sizes > 0]
    return speed.mean()


def _pushes(
    model: Model, features: Chunk, row: list[Flow], push: float, chance: torch.Generator
) -> list[Tensor]:
    """The ratios in the frames that are not 0, for each state before the last."""
    blocks: Any = model.encoder
    found = []
    for flow in row:
        drawn = torch.randn(flow.x.shape, generator=chance).to(flow.x)
        delta = F.normalize(drawn, dim=1) * push * flow.x.norm(dim=1, keepdim=True)
        handle = blocks[flow.block].register_forward_pre_hook(partial(_displaced, delta))
        try:
            with Flows(model) as record:
                model.score(features)
        finally:
            handle.remove()
        last = record.take()[row[-1].block].y
        sizes = delta.double().norm(dim=1)
        moved = (last - row[-1].y).double().norm(dim=1) / sizes
        found.append(moved[sizes > 0].cpu())
    return found


def _displaced(delta: Tensor, block: Any, args: tuple[Chunk]) -> tuple[Chunk]:
    """The input with delta `[frames, C]` added to its valid frames."""
    (c,) = args
    frames = c.x.transpose(1, 2).clone()
    frames[c.valid] += delta
    return (c._replace(x=frames.transpose(1, 2)),)
