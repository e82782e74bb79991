"""The numbers of a formula: written in the config, or learned for a layer or for each channel.

A learned number is a parameter of one dimension at most, `[]` or `[C]`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Number = float | nn.Parameter


def number(value: float, channels: int, learn: bool, per_channel: bool = False) -> Number:
    """`value` unchanged, or a parameter that starts at it: `[]`, or `[C]` if per_channel."""
    if not learn:
        return float(value)
    return nn.Parameter(torch.full((channels,) if per_channel else (), float(value)))


def beside(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A number in a shape and dtype that broadcast with frames x `[B, C, T]`."""
    if not isinstance(value, Tensor):
        return value
    return value.to(x.dtype)[:, None] if value.ndim else value.to(x.dtype)


def settled(value: float | Tensor, module: nn.Module) -> float | None:
    """The value of a number as a float; None if it has several values or is being trained."""
    if not isinstance(value, Tensor):
        return value
    return None if value.ndim or module.training else value.item()


def positive(raw: Number) -> float | Tensor:
    """softplus(ρ) for a learned number ρ, or the plain number."""
    return F.softplus(raw) if isinstance(raw, Tensor) else raw


def before_softplus(value: float) -> float:
    """ρ with softplus(ρ) = value > 0."""
    return float(torch.tensor(value, dtype=torch.float64).expm1().log())


def must_be_positive(**values: float) -> None:
    """Raises ValueError for the first number that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: give a number above 0")
