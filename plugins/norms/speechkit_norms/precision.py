"""The precision of statistics."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x in float32 at least: sums of squares in half precision are not accurate."""
    return x.to(wide_type(x.dtype))


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """The type in which statistics of such numbers are computed."""
    return torch.promote_types(dtype, torch.float32)
