"""The memory of linear attention and of retention, for all frames at once or chunk by chunk."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from speechkit.nn.scan import is_open

CHUNK = 64
"""The frames that read each other directly; what they read of earlier ones is in the state."""


class Decay(NamedTuple):
    """The factor of a memory from one frame to the next, a = exp(log − i angle).

    `log [H]` is for each head, `angles [K / 2]` in radians for each pair of numbers of a key.
    """

    log: Tensor
    angles: Tensor

    def strength(self, frames: Tensor) -> Tensor:
        """|a| to the power of `frames [B, ...]`, which counts as 0 below 0: `[B, H, ...]`."""
        log = self.log.view(-1, *(1,) * (frames.ndim - 1))
        return (frames.clamp(min=0).unsqueeze(1) * log).exp()

    def turned(self, x: Tensor, frames: Tensor) -> Tensor:
        """x · exp(i angle · frames): x `[B, H, T, K]`, first the real parts; frames `[B, T]`."""
        # in float64, since float32 has an error of 1e-4 after 1000 frames
        turns = frames.double()[:, None, :, None] * self.angles.double()
        cos, sin = turns.cos().to(x.dtype), turns.sin().to(x.dtype)
        re, im = x.chunk(2, dim=3)
        return torch.cat([re * cos - im * sin, re * sin + im * cos], dim=3)


def recalled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor,
    state: Tensor,
    decay: Decay | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """o_n = S_n q_n with S_n = a S_{n−1} + v_n k_nᵀ, and the state S after the last frame.

    Without `decay` a = 1; such a sum of many frames needs S in float64. With it S is complex, and
    o_n = Re(S_n q̄_n). In a chunk o = (Q Kᵀ ⊙ D) V + D₀ Q S, where D is the decay from one frame to
    another and D₀ that since the last chunk. An export for any number of frames has one chunk, and
    so no loop. Invalid frames leave S as it is; their k must be 0. Shape: q, k `[B, H, T, K]`, v
    and o `[B, H, T, V]`, valid `[B, T]`, S `[B, H, V, K]`. Sun et al., arXiv:2307.08621.
    """
    if is_open(q.shape[2]) or q.shape[2] <= chunk:
        return _chunk(q, k, v, valid, state, decay)
    outputs = []
    for start in range(0, q.shape[2], chunk):
        span = slice(start, start + chunk)
        given = q[:, :, span], k[:, :, span], v[:, :, span], valid[:, span]
        o, state = _chunk(*given, state, decay)
        outputs.append(o)
    return torch.cat(outputs, dim=2), state


def weights(q: Tensor, k: Tensor, valid: Tensor, decay: Decay | None = None) -> Tensor:
    """The weights of all frames in all later ones if none came before: o = weights · v.

    Shape: q, k `[B, H, T, K]`, valid `[B, T]`, weights `[B, H, T, T]`.
    """
    # the number of valid frames up to each
    places = valid.cumsum(1)
    if decay is None:
        return (q @ k.transpose(2, 3)).tril()
    scores = decay.turned(q, places) @ decay.turned(k, places).transpose(2, 3)
    return (scores * decay.strength(places[:, :, None] - places[:, None])).tril()


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor, state: Tensor, decay: Decay | None
) -> tuple[Tensor, Tensor]:
    near = weights(q, k, valid, decay) @ v
    if decay is None:
        return near + q @ state.transpose(2, 3).to(q.dtype), state + v.transpose(2, 3) @ k
    places = valid.cumsum(1)
    last = places[:, -1:]
    q = decay.turned(q, places) * decay.strength(places)[..., None]
    k = decay.turned(k, places - last) * decay.strength(last - places)[..., None]
    faded = decay.turned(state, -last) * decay.strength(last)[..., None]
    return near + q @ state.transpose(2, 3), faded + v.transpose(2, 3) @ k
