"""Which features decided: gradients of a score, also with other rules for the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from speechkit.models import Model, Output
from speechkit.nn import Chunk
from speechkit.probes.codes import activations

TINY = 1e-6
"""How far from 0 the input of an activation is taken to be where it is divided by."""

Rule = Callable[[Tensor, Tensor], Tensor]
"""The factor of the gradient of an activation from its input z and output y, elementwise."""


def excitation(temperature: float) -> Rule:
    """σ(z / temperature) in place of the derivative: units that are nearly on take part."""
    return lambda z, y: torch.sigmoid(z / temperature)


def identity(z: Tensor, y: Tensor) -> Tensor:
    """y / z in place of the derivative, so that z · factor = y; the derivative itself for ReLU."""
    away = torch.where(z >= 0, z + TINY, z - TINY)
    return y / away


@contextmanager
def backward(model: Model, rule: Rule | None) -> Iterator[None]:
    """The gradient of each activation is that of `rule` for a while; without one it is its own.

    The forward pass does not change by a bit. A gated activation keeps its own gradient.
    """
    handles = []
    if rule is not None:
        hook = partial(_replaced, rule)
        handles = [layer.register_forward_hook(hook) for layer in activations(model).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replaced(rule: Rule, layer: Any, args: tuple[Chunk], output: Chunk) -> Chunk:
    z, y = args[0].x, output.x
    if z.shape != y.shape:
        return output
    through = rule(z, y).detach() * z
    return output._replace(x=y.detach() + (through - through.detach()))


def best(model: Model, output: Output) -> Tensor:
    """The best label of each row `[B]`, or of each frame `[B, T]`; −1 in padding, and where CTC's
    blank is best, except in rows where it is best everywhere."""
    labels = output.scores.argmax(-1)
    if labels.ndim == 1:
        return labels
    at = torch.arange(labels.shape[1], device=labels.device)
    valid = at < output.lengths[:, None]
    named = valid & (labels < len(model.labels))
    return labels.masked_fill(~torch.where(named.any(1, keepdim=True), named, valid), -1)


def target(output: Output, labels: Tensor) -> Tensor:
    """The score of the labels of `best` for each row, `[B]`: a clip's logit, or the mean over the
    frames that have a label; with CTC these are log-probabilities."""
    found = output.scores.gather(-1, labels[..., None].clamp(min=0))[..., 0]
    if found.ndim == 1:
        return found
    return found.masked_fill(labels < 0, 0).sum(1) / (labels >= 0).sum(1).clamp(min=1)


def attribution(model: Model, features: Chunk, labels: Tensor, rule: Rule | None = None) -> Tensor:
    """Gradient of `target` times (x − mean of x over the row's valid frames), `[B, F, T]`.

    To first order it is what the score loses if a feature takes its mean. 0 in padding.
    """
    x = features.masked.detach().requires_grad_()
    with torch.enable_grad(), backward(model, rule):
        score = target(model.score(Chunk(x, features.valid)), labels).sum()
        (gradient,) = torch.autograd.grad(score, x)
    return (gradient * (x - baseline(features)) * features.valid[:, None]).detach()


def baseline(features: Chunk) -> Tensor:
    """The mean of each feature over the row's valid frames, `[B, F, 1]`."""
    return (features.masked.sum(2) / features.lengths[:, None].clamp(min=1))[..., None]


def without(features: Chunk, ranks: Tensor, share: float) -> Chunk:
    """The features with the `share` of each row's valid values that rank highest at their mean.

    Shape: ranks `[B, F, T]`.
    """
    x = features.masked.clone()
    mean = baseline(features)
    for row, (order, length) in enumerate(zip(ranks, features.lengths.tolist(), strict=True)):
        count = round(share * x.shape[1] * length)
        chosen = order[:, :length].flatten().topk(count).indices
        part = x[row, :, :length].flatten()
        part[chosen] = mean[row].expand(-1, length).flatten()[chosen]
        x[row, :, :length] = part.view(-1, length)
    return Chunk(x, features.valid)
