"""Heads of attention: groups of channels that have weights of their own."""

from __future__ import annotations

import torch
from torch import Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """The heads of x, `[…, T, C]` → `[…, H, T, C / H]`."""
    y: Tensor = x.unflatten(-1, (heads, -1)).transpose(-3, -2)
    return y


def join_heads(x: Tensor) -> Tensor:
    """The inverse of `split_heads`, `[…, H, T, D]` → `[…, T, H · D]`."""
    return x.transpose(-3, -2).flatten(-2)


def masked_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """The softmax over the allowed keys, and 0 for the others; all 0 where no key is allowed."""
    # not -inf, whose softmax is NaN where no key is allowed
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
    return torch.where(allowed, weights, 0)


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """softmax(q kᵀ + bias) v over the allowed keys, 0 if none is.

    Shape: q `[B, H, Q, D]`, k and v `[B, H, K, D]`, allowed a bool that broadcasts to
    `[B, H, Q, K]` → `[B, Q, H · D]`.
    """
    return join_heads(masked_softmax(q @ k.transpose(-1, -2) + bias, allowed) @ v)
