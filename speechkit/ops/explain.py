"""Lists the implementation that each layer of a model runs, and why not a faster one."""

import torch
from torch import nn

from speechkit.errors import ConfigError
from speechkit.ops._dispatch import Choice, decide
from speechkit.ops.batch_norm import IMPLEMENTATIONS as BATCH_NORM
from speechkit.ops.depthwise_conv import implementation as depthwise_conv
from speechkit.ops.linear import implementation as linear
from speechkit.ops.separable_conv import IMPLEMENTATIONS as SEPARABLE_CONV
from speechkit.ops.separable_conv import Shape

__all__ = ["Choice", "explain", "implementations"]


def explain(model: nn.Module) -> list[Choice]:
    """A line for each layer with an op or next to one: `print(*explain(m), sep="\\n")`.

    In a model from `sk.prepare` a sub-block is one layer; modules that could not be fused are
    listed separately.
    """
    found = []
    for name, module in model.named_modules():
        if callable(getattr(module, "implementation", None)):
            try:
                choice = module.implementation()
            except ConfigError as error:
                choice = Choice(type(module).__name__, "nothing", {"any": str(error)})
            found.append(choice._replace(layer=name))
    return found


def implementations() -> list[Choice]:
    """The implementation of each op on this machine, in float32."""
    one = torch.empty(1, 1)
    return [
        depthwise_conv(one[None]),
        linear(one),
        decide("batch_norm", BATCH_NORM, None, one, one[0]),
        decide("separable_conv", SEPARABLE_CONV, None, Shape(1, 1), one),
    ]
