"""A depthwise convolution whose kernel a small net makes from positions and from the input."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.errors import ComponentError, StreamError
from speechkit.nn import (
    Chunk,
    LookAhead,
    Serial,
    State,
    StreamLayer,
    Windowed,
    reach,
)
from speechkit_mixers.mean import DecayingMean

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

EPS = 1e-12
"""The least norm by which h is divided."""


class SlowNet(nn.Module):
    """The kernels of a depthwise convolution, from positions p and pooled input z:

        h = sin(A_0 p + a_0);  on each of `layers` l:
            h = sin(A_l p + a_l) ⊙ (W_l h + b_l) + β_l
            h = α_l ⊙ h + γ_l ⊙ h / ‖h‖          no gradient through the first h, ‖·‖ over p
            h = h ⊙ (V_l GELU(F R z) + v_l)
        kernel = O h + o

    p are `kernel` equal steps from −1 to 1. z is a value for each position, or one for all.
    `frequency` scales A at the start. Shape: z `[B, N, 1 or kernel, C]` → `[B, N, kernel, C]`.
    """

    self_initialized = "reduce", "mix", "slow", "fast", "out"
    undecayed = "rates", "phases", "shifts", "alphas", "gammas"

    def __init__(
        self, channels: int, kernel: int, hidden: int, layers: int, frequency: float
    ) -> None:
        super().__init__()
        self.kernel, self.channels = kernel, channels
        shape = torch.arange(1.0, layers + 2)[:, None].expand(-1, hidden)
        spread = torch.distributions.Gamma(6 / shape, torch.ones(())).sample()
        rates = torch.empty(layers + 1, hidden).uniform_(-1, 1)
        self.rates = nn.Parameter(2 * math.pi * frequency * spread * rates)
        self.phases = nn.Parameter(torch.zeros(layers + 1, hidden))
        self.slow = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.fast = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.shifts = nn.Parameter(torch.zeros(layers))
        self.alphas = nn.Parameter(torch.ones(layers, hidden))
        self.gammas = nn.Parameter(torch.full((layers, hidden), 0.1))
        self.reduce = nn.Linear(channels, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, channels)
        for linear, bias in [*((x, 1.0) for x in (*self.slow, *self.fast)), (self.out, 0.0)]:
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear")
            nn.init.constant_(linear.bias, bias)
        with torch.no_grad():
            self.out.weight.mul_(kernel**-0.5)

    def waves(self, dtype: torch.dtype, device: Any = None) -> Tensor:
        """sin(A p + a), first those that h starts with. Shape: `[layers + 1, kernel, N]`."""
        places = torch.linspace(-1, 1, self.kernel, dtype=dtype, device=device)[:, None]
        rates, phases = self.rates.to(dtype)[:, None], self.phases.to(dtype)[:, None]
        return (places * rates + phases).sin()

    def normalized(self, layer: int, h: Tensor) -> Tensor:
        """α ⊙ h + γ ⊙ h / ‖h‖ of a layer. Shape: `[..., kernel, N]` → the same."""
        unit = F.normalize(h, dim=-2, eps=EPS)
        return self.alphas[layer] * h.detach() + self.gammas[layer] * unit

    def forward(self, z: Tensor) -> Tensor:
        # half precision is too coarse for the phase of a fast wave
        h, *waves = self.waves(torch.promote_types(z.dtype, torch.float32), z.device).to(z.dtype)
        given = F.gelu(self.mix(self.reduce(z)))
        for layer, (slow, fast) in enumerate(zip(self.slow, self.fast, strict=True)):
            h = waves[layer] * slow(h) + self.shifts[layer]
            h = self.normalized(layer, h) * fast(given)
        kernels: Tensor = self.out(h)
        return kernels

    @torch.no_grad()
    def lower(self, program: Lowering, z: Value) -> Value:
        """The kernel of each frame, one tap after another. Shape: z `[C]` → `[kernel · C]`."""
        net = copy.deepcopy(self).double()
        places = net.kernel
        first, *waves = net.waves(torch.float64)
        weight = net.mix.weight @ net.reduce.weight
        given = program.matrix(z, weight, net.mix(net.reduce.bias))
        given = program.expression("gelu(x)", {}, given)
        fast = [program.matrix(given, x.weight, x.bias) for x in net.fast]  # type: ignore[arg-type]
        # before the first map of z nothing depends on the frame: it is a factor of the next weight
        known = net.normalized(0, waves[0] * net.slow[0](first) + net.shifts[0])
        h = fast[0]
        for layer in range(1, len(fast)):
            slow = net.slow[layer]
            weight = waves[layer][:, :, None] * slow.weight * known[:, None]
            h = _mapped(program, h, weight, waves[layer] * slow.bias + net.shifts[layer])
            squares = program.fold(program.expression("x * x", {}, h), places)
            values = {"alpha": net.alphas[layer], "gamma": net.gammas[layer], "eps": EPS}
            scale = "(alpha + gamma / max(sqrt(a), eps)) * b"
            scales = program.expression(scale, values, squares, fast[layer])
            h = program.expression("a * b", {}, h, program.repeat(scales, places))
            known = torch.ones_like(known)
        weight = net.out.weight * known[:, None]
        return _mapped(program, h, weight, net.out.bias.expand(places, -1))

    def macs(self, places: int) -> int:
        """The multiply-adds of a kernel for a z of 1 or `kernel` places."""
        hidden, layers = self.alphas.shape[1], len(self.slow)
        given = hidden * (self.channels + hidden + layers * hidden)
        made = hidden * (self.channels + layers * hidden)
        return places * given + self.kernel * made


class HyperZZW(StreamLayer):
    """y[c, t] = Σ_k w[k, c] x[c, t · stride + k · dilation − left], w = SlowNet(z) for each row.

    z are the means of x over `kernel` equal parts of the row's valid frames, so y reads the whole
    utterance; `lookahead` is that of the convolution. Shape: `[B, C, T]` →
    `[B, C, ceil(T / stride)]`. Zhang, Terminator, arXiv:2401.17948.
    """

    left = right = math.inf

    def __init__(self, net: SlowNet, stride: int, dilation: int, window: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.stride, self.dilation, self.window = net, stride, dilation, window

    def forward(self, c: Chunk) -> Chunk:
        x = c.masked.transpose(1, 2)
        kernels = self.net(_parts(x, c.valid, self.net.kernel)[:, None])
        frames = (c.x.shape[2] + self.stride - 1) // self.stride
        window = F.pad(x, (0, 0, *self.window))
        y = _convolved(window, kernels, self.stride, self.dilation)[:, :frames]
        return Chunk(y.transpose(1, 2), c.valid[:, :: self.stride])

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        raise StreamError(
            "mixer 'hyperzzw' reads the whole utterance; use mixer 'hyperzzw_running' to stream"
        )

    def macs(self, frames: int) -> int:
        each = self.net.kernel * self.net.channels
        return self.net.macs(self.net.kernel) + each * -(-frames // self.stride)


class FramewiseHyperZZW(Windowed):
    """As `HyperZZW`, with the z of each output frame, and so its kernel, in the input.

    Shape: x and z one after the other, `[B, 2C, T]` → `[B, C, ceil(T / stride)]`.
    """

    def __init__(self, net: SlowNet, stride: int, dilation: int, window: tuple[int, int]) -> None:
        super().__init__(*window, stride)
        self.net, self.kernel, self.dilation = net, net.kernel, dilation

    def channels_out(self, c_in: int) -> int:
        return c_in // 2

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        x, z = x.transpose(1, 2).chunk(2, 2)
        kernels = self.net(z[:, self.left :: self.stride, None][:, :frames])
        y = _convolved(x, kernels, self.stride, self.dilation)
        return y.transpose(1, 2)

    def lower(self, program: Lowering, x: Value) -> Value:
        channels, wait = x.channels // 2, self.keep - self.left
        windows = program.unfold(program.part(x, 0, channels), self)
        # z of the frames to which the outputs belong, which are older than the latest
        z = program.part(x, channels, channels)
        z = program.emit("delay", z, keep=wait) if wait else z
        kernels = self.net.lower(program, program.every(z, self.stride))
        return program.fold(program.expression("a * b", {}, windows, kernels), self.kernel)

    def macs(self, frames: int) -> int:
        each = self.net.macs(1) + self.net.kernel * self.net.channels
        return each * self.frames_out(frames)


class WithMean(DecayingMean):
    """The channels, then the decaying means of their valid frames so far.

    Shape: `[B, C, T]` → `[B, 2C, T]`.
    """

    def channels_out(self, c_in: int) -> int:
        return 2 * c_in

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        means, state = super().step(c, state)
        return Chunk(torch.cat([c.masked, means.x], dim=1), c.valid), state

    def lower(self, program: Lowering, x: Value) -> Value:
        return program.join(x, super().lower(program, x))


def hyperzzw(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    hidden: int = 32,
    layers: int = 2,
    frequency: float = 0.5,
) -> StreamLayer:
    """A depthwise convolution with a kernel for each utterance, of the means of its parts."""
    net = _slow_net("hyperzzw", channels, kernel, hidden, layers, frequency)
    return HyperZZW(net, stride, dilation, reach(kernel, dilation, lookahead))


def hyperzzw_running(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    hidden: int = 32,
    layers: int = 2,
    frequency: float = 0.5,
    frames: float = 300,
) -> StreamLayer:
    """As `hyperzzw`, with a kernel for each frame, of the mean of about the last `frames` frames.

    Only its convolution looks ahead.
    """
    if frames <= 0:
        raise ComponentError(f"mixer hyperzzw_running: frames={frames}; give a number above 0")
    net = _slow_net("hyperzzw_running", channels, kernel, hidden, layers, frequency)
    conv = FramewiseHyperZZW(net, stride, dilation, reach(kernel, dilation, lookahead))
    return Serial(with_mean=WithMean(frames), conv=conv)


def _slow_net(
    name: str, channels: int, kernel: int, hidden: int, layers: int, frequency: float
) -> SlowNet:
    if min(kernel - 1, hidden, layers) < 1 or frequency <= 0:
        raise ComponentError(
            f"mixer {name}: kernel={kernel}, hidden={hidden}, layers={layers}, "
            f"frequency={frequency}; give a kernel of at least 2 frames, and hidden, layers and "
            "frequency above 0"
        )
    return SlowNet(channels, kernel, hidden, layers, frequency)


def _convolved(x: Tensor, kernels: Tensor, stride: int, dilation: int) -> Tensor:
    """A kernel for each row, or each frame of y, `[B, 1 or T', K, C]`; x `[B, T, C]` is padded."""
    span = dilation * (kernels.shape[2] - 1) + 1
    if x.shape[1] < span:
        return x[:, :0]
    windows = x.unfold(1, span, stride)[..., ::dilation]
    return (windows * kernels.transpose(2, 3)).sum(3)


def _mapped(program: Lowering, h: Value, weight: Tensor, bias: Tensor) -> Value:
    """W_k h_k + b_k for every place k, with one h_k after another or the same h for all.

    Shape: h `[K · N]` or `[N]`, weight `[K, M, N]`, bias `[K, M]` → `[K · M]`.
    """
    width = weight.shape[2]
    if h.channels == width:
        return program.matrix(h, weight.flatten(0, 1), bias.flatten())
    each = [program.part(h, k * width, width) for k in range(len(weight))]
    return program.join(*map(program.matrix, each, weight, bias))


def _parts(x: Tensor, valid: Tensor, parts: int) -> Tensor:
    """The means of equal parts of the valid frames, which overlap where they do not divide them.

    Part k of n frames has those from ⌊k n / parts⌋ to ⌈(k + 1) n / parts⌉ − 1.
    Shape: x `[B, T, C]` → `[B, parts, C]`.
    """
    place, n = (valid.cumsum(1) - 1)[:, None], valid.sum(1)[:, None, None]
    k = torch.arange(parts, device=x.device)[:, None]
    inside = (place >= k * n // parts) & (place < ((k + 1) * n + parts - 1) // parts)
    weights = (inside & valid[:, None]).to(x.dtype)
    return weights @ x / weights.sum(2, keepdim=True).clamp(min=1)
