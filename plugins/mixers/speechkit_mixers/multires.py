"""A causal convolution whose kernel is a tree of wavelet-like filters."""

from __future__ import annotations

from math import ceil, comb, log2, sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit import ops
from speechkit.errors import ComponentError
from speechkit.limits import MAX_WIDTH
from speechkit.nn import Chunk, DepthwiseConv, LookAhead, Windowed

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class MultiRes(Windowed):
    """y = w_r x + w_0 a_J + Σ_{j=1..J} Σ_i w_{j,i} b_j[t − i·2^j], a filter bank of each channel.

    a_0 = x, a_{j+1} = low ∗ a_j and b_{j+1} = high ∗ a_j with the same `taps` taps at distance 2^j
    on every level. J is `levels`, or the smallest that covers `kernel` frames; it reads
    (taps − 1)(2^J − 1) frames before its own, at distance `dilation`. It is causal: `lookahead` has
    no effect. Level J has one coefficient w; so have the others (the fading tree), unless `memory`
    gives their number with a_J's: then from level to level, coarse to fine, n becomes
    2(n − 1) + taps until `memory` is used up (the uniform tree). `wavelet` N starts with the
    Daubechies filters of 2N taps. It is computed as one convolution with the kernel of the tree.
    Shape: `[B, C, T]` → `[B, C, ceil(T / stride)]`. Shi et al., arXiv:2305.01638.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        lookahead: LookAhead = 0,
        taps: int = 2,
        levels: int | None = None,
        memory: int | None = None,
        wavelet: int | None = None,
    ) -> None:
        if wavelet is not None and not 1 <= wavelet <= 16:
            raise ComponentError(f"mixer multires: wavelet={wavelet}; give a number from 1 to 16")
        taps = taps if wavelet is None else 2 * wavelet
        if taps < 2:
            raise ComponentError(f"mixer multires: taps={taps}; give at least 2")
        depth = ceil(log2((kernel - 1) / (taps - 1) + 1)) if levels is None else levels
        if depth < 1 or depth > log2(MAX_WIDTH):
            raise ComponentError(
                f"mixer multires: kernel={kernel} and levels={levels} make {depth} levels; give a "
                f"kernel of at least 2 frames, or levels from 1 to {int(log2(MAX_WIDTH))}"
            )
        if memory is not None and memory < 2:
            raise ComponentError(f"mixer multires: memory={memory}; give at least 2")
        self.span: int = (taps - 1) * (2**depth - 1) + 1
        super().__init__(dilation * (self.span - 1), 0, stride)
        self.dilation = dilation
        self.widths = _widths(depth, taps, memory)
        self.low, self.high = (
            nn.Parameter(torch.empty(channels, taps).uniform_(-1, 1) / sqrt(taps)) for _ in range(2)
        )
        if wavelet is not None:
            low = torch.from_numpy(_daubechies(wavelet))
            signs = (-1.0) ** torch.arange(taps)
            with torch.no_grad():
                self.low.copy_(low)
                self.high.copy_(signs * low.flip(0))
        # of a_J, of each level from coarse to fine with the latest coefficient first, and of x
        gains = torch.empty(channels, 2 + sum(self.widths)).uniform_(-1, 1)
        self.gains = nn.Parameter(gains / sqrt(gains.shape[1]))

    def kernel(self) -> Tensor:
        """The impulse response as the weight of a convolution, `[C, 1, span]`, its own frame last.

        It is computed in float32 at least.
        """
        wide = torch.promote_types(self.low.dtype, torch.float32)
        low, high, gains = self.low.to(wide), self.high.to(wide), self.gains.to(wide)
        a = F.pad(gains.new_ones(len(gains), 1), (0, self.span - 1))
        y = gains[:, -1:] * a
        end = gains.shape[1] - 1
        for level in range(len(self.widths)):
            b, a = _filtered(a, high, 2**level), _filtered(a, low, 2**level)
            start = end - self.widths[-1 - level]
            if start < end:
                y = y + _filtered(b, gains[:, start:end].flip(1), 2 ** (level + 1))
            end = start
        y = y + gains[:, :1] * a
        return y.flip(1)[:, None].to(self.low.dtype)

    def forward(self, c: Chunk) -> Chunk:
        padding = self.left, 0
        y = ops.depthwise_conv(c.x, self.kernel(), self.stride, self.dilation, padding, c.valid)
        return Chunk(y, self.own(c.valid))

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        if not frames:
            return x[:, :, :0]
        window = x[:, :, : (frames - 1) * self.stride + self.left + 1]
        return ops.depthwise_conv(window, self.kernel(), self.stride, self.dilation)

    def fuse(self) -> DepthwiseConv:
        """The convolution with its kernel."""
        conv = DepthwiseConv(len(self.low), self.span, self.stride, self.dilation, lookahead=0)
        conv.weight = nn.Parameter(self.kernel().detach(), requires_grad=False)
        return conv

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.add(self.fuse(), x)

    def macs(self, frames: int) -> int:
        return len(self.low) * self.span * self.frames_out(frames)

    def exportable(self) -> nn.Module:
        return self.fuse().exportable()

    def implicit_attention(self, c: Chunk) -> Tensor:
        """The weight of each frame s in frame t of y, `[B, C, T / stride, T]`."""
        frames = torch.arange(c.x.shape[2], device=c.x.device)
        lag = frames[:: self.stride, None] - frames
        read = (lag >= 0) & (lag <= self.left) & (lag % self.dilation == 0)
        taps = self.kernel()[:, 0].flip(1)
        weights = taps[:, (lag // self.dilation).clamp(0, self.span - 1)]
        real = self.own(c.valid)[:, :, None] & c.valid[:, None]
        return torch.where(read & real[:, None], weights, 0)

    def extra_repr(self) -> str:
        return (
            f"{len(self.low)}, taps={self.low.shape[1]}, levels={len(self.widths)}, "
            f"coefficients={1 + sum(self.widths)}, stride={self.stride}, left={self.left}"
        )


def _filtered(x: Tensor, taps: Tensor, distance: int) -> Tensor:
    """The causal convolution of each row of x `[C, T]` with its taps `[C, K]`, the last its own."""
    past = F.pad(x, (distance * (taps.shape[1] - 1), 0))
    return F.conv1d(past[None], taps[:, None], dilation=distance, groups=len(x))[0]


def _widths(levels: int, taps: int, memory: int | None) -> list[int]:
    """The number of coefficients of each level, from coarse to fine."""
    if memory is None:
        return [1] * levels
    widths, width, rest = [], 1, memory - 1
    for _ in range(levels):
        widths.append(min(width, rest))
        rest -= widths[-1]
        width = 2 * (width - 1) + taps
    return widths


def _daubechies(order: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The low-pass filter with `order` zeros at π and as many taps again, with norm 1."""
    # half of the zeros of the product filter, those within the unit circle
    squares = np.roots([comb(order - 1 + k, k) for k in reversed(range(order))])
    pairs = [np.roots([1, 4 * y - 2, 1]) for y in squares]
    inner = [min(pair, key=abs) for pair in pairs]
    taps = np.real(np.poly([-1.0] * order + inner))
    return np.asarray(taps * sqrt(2) / taps.sum())
