"""Attention over a window of frames, with weights from a softmax or from a ReLU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    Chunk,
    Delay,
    FrameWise,
    LookAhead,
    Pointwise,
    State,
    StreamLayer,
    Windowed,
    reach,
)
from speechkit_mixers.heads import join_heads, masked_softmax, split_heads
from speechkit_mixers.norms import HeadNorm, RMSGate

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

PAPERS = {
    "softmax": ("softmax", "none"),
    "relu": ("relu", "keys"),
    "rela": ("relu", "rms_gate"),
    "reluformer": ("relu", "learned"),
}
"""What the value of `weight` means: the function of the scores, and `normalise` by default."""
NORMALISED = "keys", "learned", "rms_gate", "none"
QUERIES = 32
"""The number of queries whose keys `Heads` gathers at once."""


class Weights(nn.Module):
    """A = f(s) · g: the weights of keys, 0 for those that are not allowed.

    f is the softmax over the allowed keys, or the ReLU. With n allowed keys g is 1 / n for
    `normalise="keys"`, 1 / (γ √(n / 2)) for "learned", with a γ for each head that starts at 1, and
    1 otherwise. A query without a key gets zeros. Shape: scores `[…, H, Q, K]`, allowed a bool that
    broadcasts to them.
    """

    def __init__(self, heads: int, function: str, normalise: str) -> None:
        super().__init__()
        self.function, self.normalise = function, normalise
        if normalise == "learned":
            self.log_scale = nn.Parameter(torch.zeros(heads))
            self.undecayed = ("log_scale",)

    def forward(self, scores: Tensor, allowed: Tensor) -> Tensor:
        if self.function == "softmax":
            weights = masked_softmax(scores, allowed)
        else:
            weights = torch.where(allowed, scores.relu(), 0)
        power, factors = self.scale()
        if not power:
            return weights
        count = allowed.sum(-1, keepdim=True).clamp(min=1).to(scores.dtype)
        return weights * (factors[:, None, None] * count**-power)

    def scale(self) -> tuple[float, Tensor]:
        """p and the factors f `[H]` of g = f · n^−p."""
        if self.normalise == "learned":
            return 0.5, 2**0.5 * (-self.log_scale).exp()
        return (1.0 if self.normalise == "keys" else 0.0), torch.ones(1)


class Heads(Windowed):
    """o_t = Σ_j A_tj v_j for each head, over the valid frames j from t − left to t + right.

    A are the `Weights` of q_t · k_j / √d, with d channels in a head. Queries, keys and values lie
    one after another along the channels. Shape: `[B, 3 C, T]` → `[B, C, ceil(T / stride)]`; state:
    the last keys and values, and the queries that wait for frames after their own.
    """

    def __init__(
        self, channels: int, heads: int, weights: Weights, left: int, right: int, stride: int = 1
    ) -> None:
        super().__init__(left, right, stride)
        self.channels, self.heads, self.window = channels, heads, left + 1 + right
        self.weights = weights
        self.wait = Delay(right // stride * stride)

    def channels_out(self, c_in: int) -> int:
        return self.channels

    def forward(self, c: Chunk) -> Chunk:
        queries, others = self.parts(c)
        frames, missing = self.frames_out(c.x.shape[2]), -c.x.shape[2] % self.stride
        around = self.left, self.right + missing
        x = F.pad(others.masked.transpose(1, 2), (0, 0, *around))
        y = self.attend(self.strided(queries), x, F.pad(c.valid, around), QUERIES)
        return Chunk(y, self.own(F.pad(c.valid, (0, missing)))[:, :frames])

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        past = super().init_state(batch, 2 * self.channels, dtype, device)
        return past, self.wait.init_state(batch, self.channels, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        queries, others = self.parts(c)
        (x, valid), own, past = self.slide(others, state[0])
        queries, waiting = self.wait.step(queries, state[1])
        q = self.strided(queries)
        y = self.attend(q, x.transpose(1, 2), valid, min(q.shape[1], QUERIES))
        return Chunk(y, own), (past, waiting)

    def attend(self, q: Tensor, x: Tensor, valid: Tensor, each: int) -> Tensor:
        """The output of queries `[B, Q, C]`, of which the first window begins at the start of x.

        x `[B, T, 2 C]` are keys and values. The queries are taken in blocks of `each`, so that
        the memory grows with T, not with its square.
        """
        (batch, frames), channels = q.shape[:2], self.channels
        if not each:
            return q.transpose(1, 2)
        blocks = (frames + each - 1) // each
        q = F.pad(q, (0, 0, 0, blocks * each - frames))
        missing = (blocks * each - frames) * self.stride
        x, valid = F.pad(x, (0, 0, 0, missing)), F.pad(valid, (0, missing))
        span = (each - 1) * self.stride + self.window
        frame = torch.arange(span, device=x.device)
        starts = torch.arange(blocks, device=x.device) * (each * self.stride)
        read = (starts[:, None] + frame).flatten()
        x = x.index_select(1, read).reshape(batch, blocks, span, 2 * channels)
        valid = valid.index_select(1, read).reshape(batch, blocks, 1, 1, span)
        k, v = (split_heads(part, self.heads) for part in x.chunk(2, dim=3))
        first = torch.arange(each, device=x.device) * self.stride
        inside = (frame >= first[:, None]) & (frame < first[:, None] + self.window)
        own = valid.index_select(4, first + self.left).transpose(3, 4)
        q = split_heads(q.reshape(batch, blocks, each, channels), self.heads)
        scores = self.scores(q, k)
        y = join_heads(self.weights(scores, valid & own & inside) @ v)
        y = y.reshape(batch, blocks * each, channels)
        return y[:, :frames].transpose(1, 2)

    def parts(self, c: Chunk) -> tuple[Chunk, Chunk]:
        """Queries, and keys with values."""
        queries, others = c.x[:, : self.channels], c.x[:, self.channels :]
        return Chunk(queries, c.valid), Chunk(others, c.valid)

    def strided(self, c: Chunk) -> Tensor:
        """The frames that have an output, `[B, ceil(T / stride), C]`."""
        return c.x[:, :, :: self.stride].transpose(1, 2)

    @staticmethod
    def scores(q: Tensor, k: Tensor) -> Tensor:
        """q · k / √d."""
        scores: Tensor = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return scores

    def implicit_attention(self, c: Chunk) -> Tensor:
        """A as `[B, H, ceil(T / stride), T]`, with zeros for frames that are not read."""
        queries, others = self.parts(c)
        q = split_heads(self.strided(queries), self.heads)
        frame = torch.arange(c.x.shape[2], device=c.x.device)
        after = frame - frame[:: self.stride, None]
        inside = (after >= -self.left) & (after <= self.right)
        allowed = (inside & c.valid[:, None] & self.own(c.valid)[:, :, None])[:, None]
        keys = others.masked.transpose(1, 2).chunk(2, dim=2)[0]
        a: Tensor = self.weights(self.scores(q, split_heads(keys, self.heads)), allowed)
        return a

    def macs(self, frames: int) -> int:
        # the scores, then the sums of the values
        return 2 * self.window * self.channels * self.frames_out(frames)

    def lower_parts(self, program: Lowering, queries: Value, others: Value) -> Value:
        """Its step of queries `[C]` at every stride-th row, and of keys and values `[2 C]`."""
        power, factors = self.weights.scale()
        factors = factors.detach().float().cpu().expand(self.heads)
        waited = program.add(Delay(self.delay), queries)
        return program.emit(
            "attention",
            others,
            rows=queries.rows,
            channels=queries.channels,
            other=waited,
            size=self.heads,
            keep=self.keep,
            taps=self.window,
            stride=self.stride,
            left=self.left,
            bias=[0.0] * (self.heads * self.window),
            numbers=[self.weights.function == "softmax", power, *factors.tolist()],
        )


class Attention(StreamLayer):
    """Self-attention over a window: `Heads` of q = W_q x, k = W_k x and v = W_v x.

    `weight` gives function and norm of the `Weights` (`PAPERS`); `normalise` replaces the norm.
    With "rms_gate" an `RMSGate` follows the heads. With `qk_norm`, by default for "relu" only, q
    and k pass a `HeadNorm`. The layer behind it is the output's map. Shape: `[B, C, T]` →
    `[B, C, ceil(T / stride)]`. Zhang et al., arXiv:2104.07012 (rela); Shen et al., arXiv:2302.06461
    (reluformer); Wortsman et al., arXiv:2309.08586 (relu).
    """

    def __init__(
        self,
        channels: int,
        left: int,
        right: int,
        stride: int = 1,
        weight: str = "softmax",
        normalise: str | None = None,
        heads: int = 4,
        qk_norm: bool | None = None,
    ) -> None:
        super().__init__()
        function, normalise = _chosen(channels, left, right, weight, normalise, heads)
        self.query, self.key = Pointwise(channels, channels), Pointwise(channels, channels)
        self.value: StreamLayer = Pointwise(channels, channels)
        normal = weight == "relu" if qk_norm is None else qk_norm
        if normal and channels == heads:
            raise ComponentError(
                f"attention: heads={heads} of {channels} channels; qk_norm would set a head of one "
                "channel to 0: give fewer heads or qk_norm=false"
            )
        self.query_norm, self.key_norm = (
            FrameWise(HeadNorm(channels, heads)) if normal else StreamLayer() for _ in range(2)
        )
        weights = Weights(heads, function, normalise)
        self.heads = Heads(channels, heads, weights, left, right, stride)
        gated = normalise == "rms_gate"
        self.gate = FrameWise(RMSGate(channels)) if gated else StreamLayer()
        self.stride, self.delay = self.heads.stride, self.heads.delay
        self.left, self.right = left, right

    def forward(self, c: Chunk) -> Chunk:
        y: Chunk = self.gate(self.heads(self.maps(c)))
        return y

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return self.heads.init_state(batch, 3 * c_in, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        y, state = self.heads.step(self.maps(c), state)
        return self.gate(y), state

    def maps(self, c: Chunk) -> Chunk:
        """Queries, keys and values, `[B, 3 C, T]`."""
        c = Chunk(c.masked, c.valid)
        return self.maps_with(c, self.value(c).x)

    def maps_with(self, c: Chunk, values: Tensor) -> Chunk:
        """Queries, keys and the given values; x is 0 in invalid frames."""
        parts = self.query_norm(self.query(c)).x, self.key_norm(self.key(c)).x, values
        x = torch.cat([part.transpose(1, 2) for part in parts], dim=2).transpose(1, 2)
        return Chunk(x, c.valid)

    def implicit_attention(self, c: Chunk) -> Tensor:
        """A, `[B, H, ceil(T / stride), T]`: A v is the output of each head, before the gate."""
        return self.heads.implicit_attention(self.maps(c))

    def macs(self, frames: int) -> int:
        maps = self.query, self.key, self.value
        return sum(layer.macs(frames) for layer in maps) + self.heads.macs(frames)

    def lower(self, program: Lowering, x: Value) -> Value:
        return self.lower_with(program, x, program.add(self.value, x))

    def lower_with(self, program: Lowering, x: Value, values: Value) -> Value:
        """Its step with the given values."""
        q = program.matrix(x, self.query.weight, stride=self.stride)
        q, k = program.add(self.query_norm, q), program.add(self.key_norm, program.add(self.key, x))
        y = self.heads.lower_parts(program, q, program.join(k, values))
        return program.add(self.gate, y)


def attention(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    weight: str = "softmax",
    normalise: str | None = None,
    window: int = 0,
    heads: int = 4,
    qk_norm: bool | None = None,
) -> Attention:
    """`Attention` over `window` frames, by default those between the ends of the row's kernel.

    It reads as many frames after its own as the kernel would, so that a wider window begins
    earlier, and adds no latency.
    """
    left, right = ends(window, kernel, dilation, lookahead)
    return Attention(channels, left, right, stride, weight, normalise, heads, qk_norm)


def ends(window: int, kernel: int, dilation: int, lookahead: LookAhead) -> tuple[int, int]:
    """The numbers of frames that a window of `attention` reads before and after its own."""
    left, right = reach(kernel, dilation, lookahead)
    window = window or left + 1 + right
    right = min(right, window - 1)
    return window - 1 - right, right


def _chosen(
    channels: int, left: int, right: int, weight: str, normalise: str | None, heads: int
) -> tuple[str, str]:
    """The function of the scores, and `normalise`; raises ComponentError for what cannot be."""
    if weight not in PAPERS or normalise not in (None, *NORMALISED):
        raise ComponentError(
            f"attention: weight={weight!r}, normalise={normalise!r}; give weight "
            f"{' or '.join(PAPERS)}, normalise {' or '.join(NORMALISED)}"
        )
    if heads < 1 or channels % heads:
        raise ComponentError(
            f"attention: heads={heads} of {channels} channels; give heads that divide the channels"
        )
    if left + right < 1:
        raise ComponentError(
            "attention: a window of 1 frame leaves no choice of keys; give a window or a kernel of "
            "at least 2 frames"
        )
    function, usual = PAPERS[weight]
    return function, usual if normalise is None else normalise
