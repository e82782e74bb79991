"""Functions on tensors, no modules: the arithmetic that deserves more than one implementation."""

from speechkit.ops.depthwise_conv import depthwise_conv

__all__ = ["depthwise_conv"]
