"""The temporal block of TRecViT: a gated linear recurrence, multiplied by a gate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import (
    BodyMaker,
    Chunk,
    DepthwiseConv,
    FrameWise,
    Multiply,
    Pointwise,
    Recurrent,
    Residual,
    Serial,
    State,
    StreamLayer,
    scan,
)

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

SHARPNESS = 8.0
LEAST = 2.5e-7
"""The least value of 1 − a², so that the gradient of its root is at most 1000."""


class RGLRU(Recurrent):
    """h_t = a_t h_{t−1} + √(1 − a_t²) (i_t x_t), log a_t = −8 r_t softplus(Λ).

    i and r are sigmoids of linear maps of x, block-diagonal with `heads` blocks. The first frame is
    not scaled. An invalid frame leaves the state unchanged. exp(−softplus(Λ)) starts uniform over
    the ring between the radii. Shape: `[B, C, T]` → the same; state h `[B, C]`, in float32 at
    least, and whether a valid frame was read `[B, 1]`. De et al., arXiv:2402.19427.
    """

    undecayed = ("decay",)

    def __init__(
        self, channels: int, heads: int = 8, min_radius: float = 0.9, max_radius: float = 0.999
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads or not 0 < min_radius < max_radius < 1:
            raise ComponentError(
                f"block rglru: heads={heads} of {channels} channels, radii {min_radius}, "
                f"{max_radius}; give heads that divide the channels and radii between 0 and 1"
            )
        each = channels // heads
        self.gates = nn.Parameter(torch.randn(2, heads, each, each) / each**0.5)
        self.gate_bias = nn.Parameter(torch.zeros(2, heads, each))
        radius = torch.empty(channels).uniform_(min_radius**2, max_radius**2).sqrt()
        # softplus(Λ) = −log radius
        self.decay = nn.Parameter(torch.expm1(-radius.log()).log())

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        h = torch.zeros(batch, c_in, dtype=wide, device=device)
        return h, torch.zeros(batch, 1, dtype=torch.bool, device=device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        h, begun = state
        if not c.x.shape[2]:
            return c, state
        log_a, gain = self._coefficients(c, begun, h.dtype)
        hs = scan(log_a.exp(), gain * c.masked.transpose(1, 2), h)
        y = Chunk(hs.to(c.x.dtype).transpose(1, 2), c.valid)
        return y, (hs[:, -1], begun | c.valid.any(1, keepdim=True))

    def implicit_attention(self, c: Chunk) -> Tensor:
        """alpha[b, c, t, s] = √(1 − a_s²) i_s ∏_{s < k ≤ t} a_k: h = alpha @ x in each channel.

        Shape: `[B, C, T, T]`. Zimerman et al., arXiv:2405.16504.
        """
        begun = c.valid.new_zeros(len(c.valid), 1)
        log_a, gain = self._coefficients(c, begun, c.x.dtype)
        sums = log_a.cumsum(1).transpose(1, 2)
        seen = torch.ones(2 * sums.shape[2:], dtype=torch.bool, device=sums.device).tril()
        seen = seen & c.valid[:, None, :, None]
        # before exp: above the diagonal the difference is positive and may be large
        ratio = (sums[..., None] - sums[:, :, None]).masked_fill(~seen, -torch.inf).exp()
        return ratio * gain.transpose(1, 2)[:, :, None]

    def lower(self, program: Lowering, x: Value) -> Value:
        maps = [torch.block_diag(*(head.t() for head in gate)) for gate in self.gates]
        gates = [
            program.matrix(x, weight, bias.flatten())
            for weight, bias in zip(maps, self.gate_bias, strict=True)
        ]
        given = program.expression("sigmoid(a) * b", {}, gates[0], x)
        rate = {"rate": -SHARPNESS * F.softplus(self.decay.detach())}
        log_a = program.expression("sigmoid(x) * rate", rate, gates[1])
        return program.emit("scan", given, other=log_a, size=1, numbers=[LEAST])

    def macs(self, frames: int) -> int:
        # the two gates' maps, then the recurrence
        return (self.gates.numel() + self.decay.numel()) * frames

    def _coefficients(self, c: Chunk, begun: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """ln a and the factor of x in each frame, `[B, T, C]`; both are 0 in invalid frames."""
        real = c.valid[:, :, None]
        i, r = self._gates(c.masked.transpose(1, 2))
        log_a = (-SHARPNESS * r * F.softplus(self.decay)).to(dtype)
        scale = (-torch.expm1(2 * log_a)).clamp(min=LEAST).sqrt()
        seen = (begun | (c.valid.cumsum(1) > 1))[:, :, None]
        gain = torch.where(seen, scale, 1.0) * i
        return torch.where(real, log_a, 0.0), torch.where(real, gain, 0.0)

    def _gates(self, x: Tensor) -> Tensor:
        # the input gate and the one of the recurrence, each [B, T, C]
        heads = x.unflatten(2, (self.gates.shape[1], -1))
        maps = torch.einsum("bthc,ghcd->gbthd", heads, self.gates)
        return (maps + self.gate_bias[:, None, None]).sigmoid().flatten(3)


def rglru(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    expand: int = 1,
    heads: int = 8,
    conv_width: int = 4,
    min_radius: float = 0.9,
    max_radius: float = 0.999,
) -> StreamLayer:
    """y = shortcut(x) + W_o (GELU(W_y n) · RG-LRU(conv(W_x n))), n = norm(x).

    The recurrence is causal and replaces the body, so `kernel` and `lookahead` have no effect. It
    has expand · c_out channels. Pătrăucean et al., TRecViT, arXiv:2412.14294.
    """
    make_body.narrow_only("rglru")
    product, out = recurrence(c_in, c_out, depth, expand, heads, conv_width, min_radius, max_radius)
    body = Serial(norm=make_body.norm(c_in), product=product, out=out)
    merge = make_body.merge(c_out, index, depth)
    return Residual(body, make_body.matched(c_in, c_out), merge)


def recurrence(
    c_in: int,
    c_out: int,
    depth: int,
    expand: int,
    heads: int,
    conv_width: int,
    min_radius: float,
    max_radius: float,
) -> Serial:
    """W_o (GELU(W_y x) · RG-LRU(conv(W_x x))), as `rglru` has it after its norm."""
    if expand < 1:
        raise ComponentError(f"recurrence: expand={expand}; give a number from 1 up")
    inner = expand * c_out
    conv = DepthwiseConv(inner, conv_width, lookahead=0)
    nn.init.normal_(conv.weight, std=0.1 / conv_width**0.5)
    conv.self_initialized = ("weight",)
    given = Serial(
        linear=_linear(c_in, inner, c_in**-0.5),
        conv=conv,
        lru=RGLRU(inner, heads, min_radius, max_radius),
    )
    gate = Serial(linear=_linear(c_in, inner, c_in**-0.5), activation=FrameWise(nn.GELU("tanh")))
    return Serial(
        product=Residual(given, gate, Multiply()),
        out=_linear(inner, c_out, math.sqrt(2 / depth / inner)),
    )


def _linear(c_in: int, c_out: int, std: float) -> Pointwise:
    layer = Pointwise(c_in, c_out, bias=True)
    nn.init.normal_(layer.weight, std=std)
    layer.self_initialized = ("weight",)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
