"""Functions on tensors that have more than one implementation."""

import speechkit.torch_required

from speechkit.implementation import use_impl
from speechkit.ops.activation import Activation
from speechkit.ops.batch_norm import batch_norm
from speechkit.ops.depthwise_conv import depthwise_conv
from speechkit.ops.explain import explain
from speechkit.ops.linear import linear
from speechkit.ops.separable_conv import separable_conv

__all__ = [
    "Activation",
    "batch_norm",
    "depthwise_conv",
    "explain",
    "linear",
    "separable_conv",
    "use_impl",
]
