"""Functions on tensors, no modules: the arithmetic that deserves more than one implementation."""

from speechkit.ops._dispatch import use_impl
from speechkit.ops.batch_norm import batch_norm
from speechkit.ops.depthwise_conv import depthwise_conv

__all__ = ["batch_norm", "depthwise_conv", "use_impl"]
