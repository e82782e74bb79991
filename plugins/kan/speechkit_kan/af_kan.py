"""AF-KAN: functions built from an activation, reduced to one number before the product."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit import ops
from speechkit.errors import ComponentError
from speechkit.nn import Chunk, StreamLayer
from speechkit.ops.explain import Choice
from speechkit_kan.basis import phases
from speechkit_kan.cheby import layer_norm, lower_layer_norm
from speechkit_kan.edges import at_least

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

T = TypeVar("T")
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "silu": (F.silu, "silu({x})"),
    "relu": (F.relu, "relu({x})"),
    "gelu": (F.gelu, "gelu({x})"),
    "softplus": (F.softplus, "softplus({x})"),
    "sigmoid": (torch.sigmoid, "sigmoid({x})"),
    "tanh": (torch.tanh, "tanh({x})"),
    "leaky_relu": (F.leaky_relu, "max({x}, 0.01 * {x})"),
    "elu": (F.elu, "where({x} > 0, {x}, expm1({x}))"),
    "selu": (
        F.selu,
        "where({x} > 0, 1.0507009873554805 * {x}, 1.7580993408473766 * expm1({x}))",
    ),
}
"""The authors' activations, each with its expression of {x}."""
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "quad1": lambda a, b: (a * b).square(),
    "quad2": lambda a, b: a * b + a.square() + b.square(),
    "sum": lambda a, b: a + b,
    "prod": lambda a, b: a * b,
    "sum_prod": lambda a, b: a + b + a * b,
    "cubic1": lambda a, b: (a + b) * (a.square() + b.square()),
    "cubic2": lambda a, b: (a * b).pow(3),
}
"""Functions of a = act(x − low) and b = act(high − x)."""
EXPRESSIONS = {
    "quad1": "({a} * {b}) ** 2",
    "quad2": "{a} * {b} + {a} ** 2 + {b} ** 2",
    "sum": "{a} + {b}",
    "prod": "{a} * {b}",
    "sum_prod": "{a} + {b} + {a} * {b}",
    "cubic1": "({a} + {b}) * ({a} ** 2 + {b} ** 2)",
    "cubic2": "({a} * {b}) ** 3",
}
"""The same as expressions."""
EPS = 1e-8


class AFKAN(StreamLayer):
    """y = W · act(LayerNorm(reduce_j φ_ij)), φ_ij = func(act(x[i] − low_j), act(high_j − x[i])).

    The grid + order bounds low_j and high_j are learned; all channels share them. `func_norm`
    "frame" scales the φ of a frame to [0, 1], "none" does not. `reduce` computes one number per
    channel: "global_attn" weights Σ_j φ_ij by a softmax over the channels, "multistep" is a linear
    layer, and "spatial_attn" has weights from a convolution over neighbouring channels. With an
    `act` other than relu, the functions are not local. Shape: `[B, C, T]` → `[B, C', T]`.
    arXiv:2503.06112.
    """

    self_initialized = ("weight", "reduce")
    undecayed = ("low", "high", "norm")

    def __init__(
        self,
        c_in: int,
        c_out: int,
        grid: int = 3,
        order: int = 3,
        act: str = "silu",
        func: str = "quad1",
        reduce: str = "global_attn",
        norm: str = "layer",
        func_norm: str = "frame",
    ) -> None:
        super().__init__()
        at_least(grid=(grid, 1), order=(order, 0))
        self.act, self.act_expression = _chosen("act", act, ACTIVATIONS)
        self.func = _chosen("func", func, FUNCTIONS)
        self.func_expression = EXPRESSIONS[func]
        make = _chosen("reduce", reduce, REDUCERS)
        self.func_norm = _chosen("func_norm", func_norm, {"frame": True, "none": False})
        low, high = phases(grid, order)
        self.low, self.high = nn.Parameter(low), nn.Parameter(high)
        self.reduce = make(c_in, len(low))
        self.norm = layer_norm(norm, c_in)
        self.weight = nn.Parameter(torch.empty(c_out, c_in))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def channels_out(self, c_in: int) -> int:
        return self.weight.shape[0]

    def implementation(self) -> Choice:
        """The implementation: its functions in torch, then a product."""
        return Choice(type(self).__name__, "torch", {})

    def functions(self, x: Tensor) -> Tensor:
        """φ of each channel, `[..., C]` → `[..., C, grid + order]`."""
        x = x.unsqueeze(-1)
        y = self.func(self.act(x - self.low), self.act(self.high - x))
        if not self.func_norm:
            return y
        # the authors' bounds are over the whole batch, so that a row depends on the others
        low = y.amin((-2, -1), keepdim=True)
        return (y - low) / (y.amax((-2, -1), keepdim=True) - low + EPS)

    def forward(self, c: Chunk) -> Chunk:
        y = self.reduce(self.functions(c.x.transpose(1, 2)))
        y = self.act(y if self.norm is None else self.norm(y))
        return Chunk(ops.linear(y, self.weight).transpose(1, 2), c.valid)

    def lower(self, program: Lowering, x: Value) -> Value:
        act = self.act_expression
        a, b = act.format(x="(x - low)"), act.format(x="(high - x)")
        text = self.func_expression.format(a=f"({a})", b=f"({b})")
        ends = {"low": self.low, "high": self.high}
        wide = {name: end.repeat_interleave(x.channels) for name, end in ends.items()}
        y = program.expression(text, wide, program.repeat(x, len(self.low)))
        y = _lower_to_range(program, y) if self.func_norm else y
        y = self.reduce.lower(program, y)  # type: ignore[operator]
        y = y if self.norm is None else lower_layer_norm(program, y, self.norm)
        return program.matrix(program.expression(act.format(x="x"), {}, y), self.weight)

    def macs(self, frames: int) -> int:
        # the sum over each channel's functions, then the product
        return (self.weight.shape[1] * len(self.low) + self.weight.numel()) * frames

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}→{self.weight.shape[0]}, {len(self.low)} functions"


class GlobalAttention(nn.Module):
    """y[i] = α_i Σ_j φ_ij, α = softmax_i((w · φ_i + b) / max(τ, 1)), τ learned from √C."""

    undecayed = ("temperature",)

    def __init__(self, channels: int, functions: int) -> None:
        super().__init__()
        # the authors' b is left out, since it does not change the softmax
        self.score = nn.Linear(functions, 1)
        self.temperature = nn.Parameter(torch.tensor(math.sqrt(channels)))

    def forward(self, y: Tensor) -> Tensor:
        score = self.score(y).squeeze(-1) / self.temperature.clamp(min=1)
        pooled: Tensor = score.softmax(-1) * y.sum(-1)
        return pooled

    def lower(self, program: Lowering, y: Value) -> Value:
        """The same in a native program; y are the functions `[functions · C]`."""
        weights = self.score.weight[0] / self.temperature.clamp(min=1)
        share = program.emit("log_softmax", _lower_sum(program, y, weights))
        pooled = program.fold(y, len(weights))
        return program.expression("exp(a) * b", {}, share, pooled)


class Multistep(nn.Module):
    """y[i] = w · φ_i + b."""

    def __init__(self, channels: int, functions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(functions, 1)

    def forward(self, y: Tensor) -> Tensor:
        reduced: Tensor = self.linear(y).squeeze(-1)
        return reduced

    def lower(self, program: Lowering, y: Value) -> Value:
        """The same in a native program; y are the functions `[functions · C]`."""
        bias = {"bias": self.linear.bias}
        return program.expression("x + bias", bias, _lower_sum(program, y, self.linear.weight[0]))


class SpatialAttention(nn.Module):
    """y[i] = Σ_j α_ij φ_ij, α_i = softmax_j(s_ij / max(τ, 1)), τ learned from √C.

    s_j is φ_j filtered over 3 neighbouring channels.
    """

    def __init__(self, channels: int, functions: int) -> None:
        super().__init__()
        self.score = nn.Conv1d(functions, functions, 3, padding=1, groups=functions)
        self.temperature = nn.Parameter(torch.tensor(math.sqrt(channels)))
        self.register_load_state_dict_pre_hook(_without_temperature)  # type: ignore[no-untyped-call]

    def forward(self, y: Tensor) -> Tensor:
        rows = y.flatten(0, -3).transpose(1, 2)
        score = self.score(rows).transpose(1, 2).view_as(y) / self.temperature.clamp(min=1)
        pooled: Tensor = (score.softmax(-1) * y).sum(-1)
        return pooled

    @torch.no_grad()
    def lower(self, program: Lowering, y: Value) -> Value:
        """The same in a native program; y are the functions `[functions · C]`."""
        assert self.score.bias is not None
        count = len(self.score.bias)
        channels = y.channels // count
        terms = [program.part(y, index * channels, channels) for index in range(count)]
        sharpness = 1 / self.temperature.clamp(min=1)
        weight, bias = self.score.weight[:, 0] * sharpness, self.score.bias * sharpness
        filtered = zip(terms, weight, bias, strict=True)
        scores = [
            program.matrix(term, _band(taps, channels), shift.expand(channels))
            for term, taps, shift in filtered
        ]
        return program.attended(scores, terms)


def _without_temperature(
    module: nn.Module, weights: dict[str, Tensor], prefix: str, *others: Any
) -> None:
    """Reads weights that were saved when `spatial_attn` did not divide by a temperature."""
    if f"{prefix}score.weight" in weights:
        weights.setdefault(f"{prefix}temperature", torch.ones(()))


def _lower_sum(program: Lowering, y: Value, weights: Tensor) -> Value:
    """Σ_j w_j φ_j of the functions `[functions · C]`."""
    each = weights.repeat_interleave(y.channels // len(weights))
    return program.fold(program.scaled(y, each), len(weights))


def _band(taps: Tensor, channels: int) -> Tensor:
    """The matrix of a convolution of 3 taps over the channels, `[C, C]`."""
    eye = torch.eye(channels)
    near = torch.diag(torch.ones(channels - 1), 1)
    return taps[0] * near.t() + taps[1] * eye + taps[2] * near


def _lower_to_range(program: Lowering, y: Value) -> Value:
    """Scales the functions of each frame to [0, 1]."""
    least = program.scaled(program.emit("largest", program.scaled(y, -1.0)), -1.0)
    off = program.expression("a - b", {}, y, least)
    top = program.emit("largest", off)
    return program.expression("a / (b + eps)", {"eps": EPS}, off, top)


REDUCERS: dict[str, Callable[[int, int], nn.Module]] = {
    "global_attn": GlobalAttention,
    "multistep": Multistep,
    "spatial_attn": SpatialAttention,
}


def _chosen(parameter: str, name: str, choices: Mapping[str, T]) -> T:
    if name not in choices:
        raise ComponentError(f"{parameter}={name!r}: give one of {', '.join(choices)}")
    return choices[name]
