"""Initial weights for rectifiers."""

from collections.abc import Callable
from typing import Literal

from torch import Generator, nn

from speechkit.models.inits import drawn_weights
from speechkit.nn import DenseConv
from speechkit_activations.learned import PReLU


def he(
    mode: Literal["fan_in", "fan_out"] = "fan_in", dist: str = "normal", slope: float | None = None
) -> Callable[[nn.Module, Generator], None]:
    """w of variance 2 / ((1 + slope²) · fan), which preserves the signal's variance.

    `slope` is that of the activation below zero: by default the initial slope of the model's
    `prelu`, otherwise 0, for ReLU. Both fans of a depthwise convolution are its kernel. It
    draws the weights listed by `speechkit.models.inits.drawn_weights`. He et al., arXiv:1502.01852.
    """
    if mode not in ("fan_in", "fan_out") or dist not in ("normal", "uniform"):
        raise ValueError(
            f"mode={mode!r}, dist={dist!r}: give fan_in or fan_out, and normal or uniform"
        )

    def draw(model: nn.Module, generator: Generator) -> None:
        a = _slope(model) if slope is None else slope
        function = nn.init.kaiming_normal_ if dist == "normal" else nn.init.kaiming_uniform_
        dense = {id(layer.weight) for layer in model.modules() if isinstance(layer, DenseConv)}
        for weight in drawn_weights(model):
            # torch counts the outputs of all channels for an input of a depthwise convolution
            alone = weight.ndim == 3 and weight.shape[1] == 1 and id(weight) not in dense
            function(weight, a, "fan_in" if alone else mode, "leaky_relu", generator)

    return draw


def _slope(model: nn.Module) -> float:
    starts = {module.init for module in model.modules() if isinstance(module, PReLU)}
    return starts.pop() if len(starts) == 1 else 0.0
