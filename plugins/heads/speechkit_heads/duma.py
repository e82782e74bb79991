"""Scores of labels from their spelling: the letters attend to frames, and the frames to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError, ConfigError
from speechkit.nn import Chunk, ClipHead

if TYPE_CHECKING:
    from speechkit.models import Model
    from speechkit.probes import Examples
    from speechkit.transforms import Transform

OTHER = 1 + len(ascii_lowercase)
"""The row of all characters that are none of a to z; row 0 is no letter, a to z are 1 to 26."""


class SharedAttention(nn.Module):
    """W_o softmax((W_q q)ᵀ W_k x / √d) W_v x in each head of d channels, with no bias.

    Shape: q `[..., Q, C]`, x `[..., X, C]`, allowed `[..., 1, 1, X]` → `[..., Q, C]`.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(channels, channels, bias=False) for _ in range(4)
        )

    def forward(self, q: Tensor, x: Tensor, allowed: Tensor) -> Tensor:
        # -inf would give NaN where nothing is allowed
        scores = self.scores(q, x).masked_fill(~allowed, torch.finfo(x.dtype).min)
        read = scores.softmax(-1) @ self._split(self.value(x))
        y: Tensor = self.out(read.transpose(-2, -3).flatten(-2))
        return y

    def scores(self, q: Tensor, x: Tensor) -> Tensor:
        """`[..., heads, Q, X]`, before the softmax."""
        queries, keys = self._split(self.query(q)), self._split(self.key(x))
        y: Tensor = queries @ keys.transpose(-1, -2) / math.sqrt(keys.shape[-1])
        return y

    def _split(self, x: Tensor) -> Tensor:
        y: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        return y


class Duma(ClipHead):
    """The score of each label from attention between the frames and the letters of the label.

        q'_j = LN(q_j + attend(q_j, p)),  p'_t = LN(p_t + attend(p_t, q'))
        y = Σ_c w_c mean_t(p'_t)_c mean_j(q'_j)_c

    p are the normalised valid frames. q_j is the normalised sum of three learned vectors: one for
    letter j, one for the letter before it and one for the letter after it. Both directions have the
    same weights. No weight belongs to a label, so that `relabel` can give a trained model others.
    The letters are a to z in lower case; all other characters are one more letter. Shape:
    `[B, C, T]` → `[B, labels, 1]`. ComponentError for channels that `heads` does not divide and for
    labels with the same letters. Source: Zhu et al., DUMA, arXiv:2001.09415, in the order of
    WN-DUMA (SemEval-2021, Task 4); the spelling and the product of the means are our choice.
    """

    rows: Tensor

    def __init__(self, channels: int, labels: int, names: Sequence[str], heads: int = 4) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ComponentError(
                f"head duma: heads={heads} for {channels} channels; give a divisor of {channels}"
            )
        # no part of the state, since it follows from the config
        self.register_buffer("rows", _rows(names), persistent=False)
        # the neighbours begin as 0, so that a letter is at first the same in all words
        vectors = torch.zeros(3, OTHER + 1, channels)
        nn.init.normal_(vectors[0])
        self.letters = nn.Parameter(vectors)
        self.of_frames, self.of_letters, self.norm = (
            nn.LayerNorm(channels, eps=1e-6) for _ in range(3)
        )
        self.attend = SharedAttention(channels, heads)
        self.weight = nn.Parameter(torch.full((channels,), channels**-0.5))

    def channels_out(self, c_in: int) -> int:
        return self.rows.shape[1]

    def forward(self, c: Chunk) -> Chunk:
        frames, valid = self.of_frames(c.masked.transpose(1, 2))[:, None], c.valid[:, None]
        letters, spelt = self.prompts(), self.rows[0] > 0
        # one label is a row of its own: [B, labels, letters or frames, C]
        letters = self.norm(letters + self.attend(letters, frames, valid[:, :, None, None]))
        frames = self.norm(frames + self.attend(frames, letters, spelt[:, None, None]))
        product = _mean(frames, valid) * _mean(letters, spelt)
        return Chunk((product @ self.weight)[:, :, None], torch.ones_like(c.valid[:, :1]))

    def prompts(self) -> Tensor:
        """q of each label, `[labels, letters, C]`, with more rows after shorter labels."""
        own, before, after = self.letters
        summed = own[self.rows[0]] + before[self.rows[1]] + after[self.rows[2]]
        y: Tensor = self.of_letters(summed)
        return y

    def macs(self, frames: int) -> int:
        """Those of the products with matrices and of the attention."""
        labels, letters = self.rows.shape[1:]
        matrix, spelt, channels = len(self.weight) ** 2, labels * letters, len(self.weight)
        projected = 3 * frames + 4 * spelt + labels * frames
        return matrix * projected + 4 * spelt * frames * channels


def _rows(names: Sequence[str]) -> Tensor:
    """The rows of each label's letters, of those before and of those after them, `[3, N, L]`."""
    spelt = [[1 + ascii_lowercase.find(x) or OTHER for x in name.casefold()] for name in names]
    for place, letters in enumerate(spelt):
        if (first := spelt.index(letters)) < place:
            raise ComponentError(
                f"head duma: labels {names[first]!r} and {names[place]!r} have the same letters; "
                "spell them differently with a to z"
            )
    longest = max(map(len, spelt))
    own = torch.tensor([letters + [0] * (longest - len(letters)) for letters in spelt])
    edge = torch.zeros_like(own[:, :1])
    before, after = torch.cat([edge, own[:, :-1]], 1), torch.cat([own[:, 1:], edge], 1)
    return torch.stack([own, before, after])


def _mean(x: Tensor, valid: Tensor) -> Tensor:
    """The mean of the valid rows, `[..., R, C]` and `[..., R]` → `[..., C]`."""
    count = valid.sum(-1, keepdim=True).clamp(min=1)
    return x.masked_fill(~valid[..., None], 0).sum(-2) / count


def relabel(labels: str) -> Transform:
    """Replaces the labels of a model with head `duma` by `labels`, with spaces between them.

    No weight is new, and no recordings are needed: the scores come from the spelling. ConfigError
    for another head.
    """

    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        from speechkit.models import build

        if not isinstance(model.head, Duma):
            raise ConfigError(
                f"transform relabel: the head is {model.config.head}; train a net with head=duma"
            )
        names = tuple(labels.split())
        made = build(replace(model.config, labels=names)).eval()
        made.load_state_dict(model.state_dict())
        made.to(model.head.weight.device)
        return made, {"new": [name for name in names if name not in model.labels]}

    return apply
