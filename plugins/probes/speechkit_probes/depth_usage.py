"""How much each residual block adds, and what later blocks do without it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Chunk, Residual
from speechkit.probes import Examples
from speechkit.probes.flows import Flow, Flows, residuals

TINY = 1e-6
"""The least norm that is divided by."""


def depth_usage() -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the share, the direction and the effect of the body of each residual block.

    Over the valid frames, with the shortcut s and the body b of a block:

        contribution  mean ‖b‖ / ‖s‖
        cosine        mean b · s / ‖b‖ ‖s‖; below 0 the body takes away from the shortcut
        skip          [i, j]: mean ‖b_j − b_j'‖ / ‖b_j‖ of a later block j, where b' is without the
                      body of block i
        effect        the largest change of the softmax over labels without that body: the mean over
                      utterances of max_t ‖p − p'‖

    Without a body the block is `act(s)`, as a row with `block=skip`. Csordás et al.,
    arXiv:2505.13898; the paper takes the largest change over tokens where `skip` takes the mean.
    ComponentError for a model without residual blocks.
    """

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        sums = residuals(model)
        if not sums:
            raise ComponentError(
                "probe depth_usage: no block of the model has a shortcut and a body; give one with "
                "residual blocks"
            )
        count = len(sums)
        skip = torch.zeros(count, count, dtype=torch.float64)
        shares, effect = torch.zeros(2, count, dtype=torch.float64), torch.zeros(count).double()
        frames = torch.zeros(count, dtype=torch.float64)
        for _, features in examples:
            plain, scores = _run(model, features)
            for i, flow in enumerate(plain):
                frames[i] += len(flow.y)
                shares[:, i] += torch.stack(_shares(flow)).sum(1).cpu()
            for i, part in enumerate(sums.values()):
                with without_body(part):
                    changed, others = _run(model, features)
                for j in range(i + 1, count):
                    skip[i, j] += _change(plain[j], changed[j]).sum().cpu()
                change = (scores - others).norm(dim=-1)
                effect[i] += change.reshape(len(change), -1).amax(1).sum().cpu()
        return {
            "contribution": shares[0] / frames,
            "cosine": shares[1] / frames,
            "skip": skip / frames,
            "effect": effect / len(examples.utterances),
        }

    return look


@contextmanager
def without_body(part: Residual) -> Iterator[None]:
    """The body of a block gives 0 for a while."""

    def zero(layer: Any, args: Any, output: Chunk) -> Chunk:
        return output._replace(x=torch.zeros_like(output.x))

    handle = part.body.register_forward_hook(zero)
    try:
        yield
    finally:
        handle.remove()


def _run(model: Model, features: Chunk) -> tuple[list[Flow], Tensor]:
    """The flows of the residual blocks and the probabilities, `[B, n]` or `[B, T, n]`, with 0 in
    frames that are not valid."""
    with Flows(model) as record:
        output = model.score(features)
    probabilities = output.scores.double().softmax(-1)
    if probabilities.ndim == 3:
        at = torch.arange(probabilities.shape[1], device=probabilities.device)
        probabilities = probabilities * (at < output.lengths[:, None])[..., None]
    return [flow for flow in record.take() if flow.body is not None], probabilities


def _shares(flow: Flow) -> list[Tensor]:
    """‖b‖ / ‖s‖ and the cosine of each frame."""
    assert flow.body is not None
    assert flow.skip is not None
    body, skip = flow.body.double(), flow.skip.double()
    norms = [x.norm(dim=1) for x in (body, skip)]
    size = norms[0] / norms[1].clamp(min=TINY)
    return [size, (body * skip).sum(1) / (norms[0] * norms[1]).clamp(min=TINY**2)]


def _change(plain: Flow, changed: Flow) -> Tensor:
    """‖b − b'‖ / ‖b‖ of each frame."""
    assert plain.body is not None
    assert changed.body is not None
    one, other = plain.body.double(), changed.body.double()
    change: Tensor = (one - other).norm(dim=1) / one.norm(dim=1).clamp(min=TINY)
    return change
