"""Initial weights: those for an activation, and small ones whose layers are balanced."""

import math

import torch
from torch import Generator, nn

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.models.inits import Init, drawn_weights, xavier_uniform
from speechkit.nn import StreamLayer
from speechkit_methods.elementwise import applied, elementwise

NEAR = 1e-6
"""The distance from 0 at which the slopes of an activation are compared."""
KINK = 1e-3
"""Slopes that differ by more are those of an activation with a kink at 0."""


def kumar(activation: str | None = None) -> Init:
    """w ~ N(0, v²), v² = 1 / (fan_in · g′(0)² · (1 + g(0)²)), for an activation g.

    It preserves the variance of signals of variance 1 where g is nearly a line. An activation with
    a kink at 0, such as ReLU, has v² = 2 / fan_in. g is the model's activation, or the one named.
    The fan-in of a convolution is its kernel times the inputs of a group. It draws the weights
    listed by `speechkit.models.inits.drawn_weights`. Kumar, arXiv:1704.08863.

    Raises ComponentError for an activation whose slope at 0 is 0, or which is not elementwise, or
    random.
    """

    def draw(model: nn.Module, generator: Generator) -> None:
        own = model.config.activation if isinstance(model, Model) else "relu"
        gain = gain_of(own if activation is None else activation)
        for weight in drawn_weights(model):
            fan_in = weight[0].numel()
            with torch.no_grad():
                weight.normal_(0, gain / math.sqrt(fan_in), generator=generator)

    return draw


def small_balanced(size: float = 1e-3) -> Init:
    """W ~ N(0, size²) and V with ‖v_j‖ = ‖w_j‖ in the last two layers, V ReLU(W x).

    w_j is row j of W, and v_j is column j of V, in a random direction. All other weights are those
    of `xavier_uniform`. From such weights the neurons first turn towards the data, and only then
    does the loss fall. With a norm between the two layers the size of W has no effect, so give
    norm=none for what the paper describes. Min et al., arXiv:2307.12851.

    Raises ComponentError for a size that is not above 0, and where the last two layers do not
    follow one another.
    """
    if not size > 0:
        raise ComponentError(f"init small_balanced: size={size}; give a number above 0")

    def draw(model: nn.Module, generator: Generator) -> None:
        xavier_uniform()(model, generator)
        *_, w, v = [None, None, *drawn_weights(model)]
        if w is None or v is None or len(w) != v.shape[1]:
            shapes = [list(x.shape) for x in (w, v) if x is not None]
            raise ComponentError(
                f"init small_balanced: the last weights are {shapes}; it needs two layers of which "
                "the second reads all that the first gives; give init xavier_uniform"
            )
        with torch.no_grad():
            w.normal_(0, size, generator=generator)
            v.normal_(generator=generator)
            rows, columns = w.flatten(1), v.transpose(0, 1).flatten(1)
            scale = rows.norm(dim=1) / columns.norm(dim=1)
            v.mul_(scale.view(1, -1, *[1] * (v.ndim - 2)))

    return draw


def gain_of(activation: Spec | str) -> float:
    """v · √fan_in: the factor by which weights compensate for the activation."""
    layer = elementwise("init kumar", activation, "init kaiming_uniform")
    below, at, above = (_slope(layer, x) for x in (-NEAR, 0.0, NEAR))
    if abs(above[1] - below[1]) > KINK:
        return math.sqrt(2)
    value, slope = at
    if abs(slope) < KINK:
        raise ComponentError(
            f"init kumar: {activation} has the slope 0 at 0; give init kaiming_uniform"
        )
    return 1 / (abs(slope) * math.sqrt(1 + value**2))


def _slope(layer: StreamLayer, x: float) -> tuple[float, float]:
    """The value of an activation at x, and its slope there."""
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    found = applied(layer, at)
    (slope,) = torch.autograd.grad(found, at)
    return found.item(), slope.item()
