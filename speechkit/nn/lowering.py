"""Lowers layers to the program of a plan: each layer adds its instructions with `lower`.

A layer without a native form runs in torch, alone: instruction `call`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn.states import arrays_of, restored
from speechkit.nn.stream import Chunk, State, StreamLayer
from speechkit.ops.activation import NONE, Activation, activation_of
from speechkit.ops.bytecode import assemble
from speechkit.ops.describes import describes
from speechkit.ops.separable_conv import PRECISIONS, Shape
from speechkit.plans.engine import Floats
from speechkit.plans.program import LoweringError, Program, Value
from speechkit.plans.signs import packed_signs

if TYPE_CHECKING:
    from speechkit.nn.separable import SeparableConv


class Window(Protocol):
    """The attributes of a convolution over time that its native form needs."""

    kernel: int
    stride: int
    dilation: int
    left: int
    keep: int


class Lowering(Program):
    """A program to which layers add instructions with their `lower(program, x)`.

    `outside` lists the layers and merge rules that run in torch, each with the number of its input
    channels.
    """

    def __init__(self, program: Program | None = None) -> None:
        super().__init__()
        if program is not None:
            self.weights = program.weights
        self.outside: list[tuple[nn.Module, int]] = []

    def input(self, rows: int, channels: int) -> Value:
        """The input of the net, with `rows` for each stride."""
        return Value(0, rows, channels)

    def add(self, layer: nn.Module, x: Value) -> Value:
        """Adds a layer's instructions; returns its output."""
        begun = len(self.instructions), len(self.outside)
        try:
            if describes(layer, "lower"):
                y: Value = layer.lower(self, x)  # type: ignore[operator]
                return y
            if activation := activation_of(layer):
                return self.activate(x, activation)
            self.refuse(f"no native {type(layer).__name__}")
        except LoweringError:
            # sound has too many rows for a call of torch, and only a StreamLayer knows its channels
            if x.channels == 1 or not isinstance(layer, StreamLayer):
                raise
            del self.instructions[begun[0] :], self.outside[begun[1] :]
        rows = x.rows // layer.stride * layer.rate
        return self._call(layer, x, rows=rows, channels=layer.channels_out(x.channels))

    def merge(self, module: nn.Module, shortcut: Value, body: Value) -> Value:
        """The output of a module `(shortcut, body) -> y`."""
        begun = len(self.instructions)
        try:
            if not describes(module, "lower"):
                self.refuse(f"no native {type(module).__name__}")
            y: Value = module.lower(self, shortcut, body)  # type: ignore[operator]
            return y
        except LoweringError:
            del self.instructions[begun:]
        return self._call(module, body, other=shortcut)

    def require(self, layer: nn.Module, name: str, method: str) -> None:
        """Refuses a layer that overrides `method` but not `name`, which is its native form."""
        if not describes(layer, name, (method,)):
            self.refuse(f"no native {type(layer).__name__}.{method}")

    def affine(self, x: Value, scale: Tensor, shift: Tensor) -> Value:
        """y = x · scale + shift per channel."""
        return self.emit("affine", x, weights=torch.stack([scale, shift]).detach().float())

    def scaled(self, x: Value, factor: float | Tensor) -> Value:
        """y = factor · x, with one factor or one for each channel `[C]`."""
        scale = torch.as_tensor(factor).detach().float().cpu().flatten().expand(x.channels)
        return self.affine(x, scale, torch.zeros(x.channels))

    def activate(self, x: Value, activation: Activation) -> Value:
        """y = f(x), or y = f(a, b) of the halves of x's channels."""
        if activation.is_gate:
            half = x.channels // 2
            halves = self.part(x, 0, half), self.part(x, half, half)
            return self.expression(activation.text, dict(activation.vectors), *halves)
        if not activation.fits:
            self.refuse(f"no native program for {activation.text[:80]!r}")
        return self.emit("activate", x, **_activation(activation, x.channels))

    def added(self, x: Value, other: Value, activation: Activation = NONE) -> Value:
        """y = f(x + other)."""
        return self.emit("add", x, other=other, **_activation(activation, x.channels))

    def part(self, x: Value, start: int, channels: int) -> Value:
        """The `channels` from `start` on, with zeros beyond the last."""
        return self.emit("part", x, size=start, channels=channels)

    def repeat(self, x: Value, times: int) -> Value:
        """The channels `times` times, one after another, `[times · C]`."""
        return self.emit("repeat", x, channels=times * x.channels)

    def spread(self, x: Value, parts: int) -> Value:
        """Equal parts of each row's channels as rows, `[rows, parts · C]` → `[parts · rows, C]`."""
        return self.emit("spread", x, rows=parts * x.rows, channels=x.channels // parts)

    def fold(self, x: Value, times: int) -> Value:
        """y[c] = Σ_g x[g · C + c], `[C]`, for x `[times · C]`."""
        return self.emit("fold", x, channels=x.channels // times)

    def join(self, *values: Value) -> Value:
        """Concatenates values along the channels."""
        if len(values) == 1:
            return values[0]
        # by halves, so that many values are not copied again for each one after them
        middle = len(values) // 2
        first, other = self.join(*values[:middle]), self.join(*values[middle:])
        return self.emit("join", first, other=other, channels=first.channels + other.channels)

    def normalize(
        self,
        x: Value,
        eps: float,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        *,
        groups: int = 1,
        counted: int | None = None,
        centred: bool = True,
        outside: bool = False,
    ) -> Value:
        """y = (x − μ) / √(v + eps) · scale + shift in every group of a frame's channels.

        v is the mean of (x − μ)² over the first `counted` channels of a group. μ is the mean of
        these channels if `centred`, else 0. If `outside`, eps is added to the root, not to v.
        """
        return self.emit(
            "normalize",
            x,
            size=groups,
            taps=counted or x.channels // groups,
            weights=self.scales(x, scale, shift),
            numbers=[eps, centred, outside],
        )

    def scales(self, x: Value, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """The scale and shift of each of x's channels, `[2, C]`; 1 and 0 where they are None."""
        scale = torch.ones(x.channels) if scale is None else scale.detach().float().cpu()
        shift = torch.zeros(x.channels) if shift is None else shift.detach().float().cpu()
        return torch.stack([scale, shift])

    def matrix(
        self,
        x: Value,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int = 1,
        residual: Value | None = None,
    ) -> Value:
        """y = W x + b + residual at every stride-th frame, with W `[C', C]`."""
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        shape = Shape(weight.shape[1], weight.shape[0], stride=stride)
        return self._separable(x, shape, None, weight.detach(), bias.detach(), residual)

    def binary(self, x: Value, shift: Tensor, weight: Tensor, factor: Tensor) -> Value:
        """y = factor · W sign(x + shift), W the signs of `weight [C', C]`, with sign(0) = 1."""
        return self.emit(
            "binary",
            x,
            channels=len(weight),
            weights=packed_signs(weight.detach().cpu()),
            bias=shift.detach(),
            numbers=factor.detach(),
        )

    def expression(
        self, text: str, values: Mapping[str, Any], x: Value, other: Value | None = None
    ) -> Value:
        """y = f(x), or f(a, b) with a = x and b = `other`, a value of the same size.

        f is the expression `text` (`speechkit.ops.expressions`); `values` are the numbers or
        vectors `[C]` of the names in it.
        """
        given = {
            name: value.detach().cpu().numpy() if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        try:
            numbers = assemble(text, given).packed(x.channels)
        except ComponentError as error:
            self.refuse(str(error))
        return self.emit("expression", x, other=other, numbers=numbers)

    def attended(self, scores: list[Value], values: list[Value]) -> Value:
        """Σ_j softmax_j(scores) · values in each channel."""
        top = reduce(partial(self.expression, "max(a, b)", {}), scores)
        shares = [self.expression("exp(a - b)", {}, score, top) for score in scores]
        terms = map(partial(self.expression, "a * b", {}), shares, values)
        return self.expression("a / b", {}, reduce(self.added, terms), reduce(self.added, shares))

    def attend(self, queries: Value, others: Value, heads: int) -> Value:
        """softmax(q kᵀ) v in each head over all valid rows of `others`.

        The channels of `others` are keys and then values. Only for the body of `blocks`, where a
        value has all rows of a block at once.
        """
        self.expect(self.inputs > 1, "attend is only for the body of blocks")
        self._check_heads(heads, queries.channels, others.channels == 2 * queries.channels)
        return self.emit(
            "attend",
            others,
            other=queries,
            size=heads,
            rows=queries.rows,
            channels=queries.channels,
        )

    def places(self, x: Value, table: Tensor) -> Value:
        """y = x + table, with table `[rows, C]`. Only for the body of `blocks`."""
        self.expect(self.inputs > 1, "places is only for the body of blocks")
        given, wanted = [*table.shape], [x.rows, x.channels]
        self.expect(given == wanted, f"places has a table {given} for a value {wanted}")
        return self.emit("places", x, weights=table.detach())

    def blocks(
        self,
        x: Value,
        size: int,
        first: Tensor,
        update: Callable[[Lowering, Value, Value], tuple[Value, Value]],
        queries: Value | None = None,
        heads: int = 1,
    ) -> Value:
        """Cuts the frames into blocks of `size` and passes a memory from each block to the next.

        The memory is `[S, D]`, at first `first`. update(body, block, memory) adds the instructions
        for one block to the program `body`; they must have no state. It returns the output frames
        of the block and the next memory. Without `queries` the output is size − 1 frames late. With
        `queries` it comes at once: the attention of the queries, in `heads` heads, to the memory,
        whose last channels are keys and then values. The output of `update` then has no effect.
        """
        self.expect(self.inputs == 1, "blocks inside the body of blocks")
        memory = [*first.shape]
        self.expect(len(memory) == 2 and all(memory), f"the first memory is {memory}, not [S, D]")
        self.expect(size >= 1, f"blocks of {size} frames")
        body = Lowering(self)
        body.inputs = 2
        leaving, following = update(body, Value(0, size, x.channels), Value(1, *memory))
        if body.outside:
            self.refuse(f"no native {type(body.outside[0][0]).__name__}")
        if kept := body.with_state:
            self.refuse(f"{kept[0]} in the body of blocks keeps a state")
        after = [following.rows, following.channels]
        self.expect(after == memory, f"the memory changes from {memory} to {after}")
        if queries:
            self._check_heads(heads, queries.channels, memory[1] >= 2 * queries.channels)
        else:
            self.expect(leaving.rows == size, f"{leaving.rows} frames from a block of {size}")

        def number(y: Value) -> int:
            # value 0 is the block, a field must be at least 1, and a body must not be empty
            return y.number if y.number and body.instructions else body.scaled(y, 1.0).number

        rate, dilation = number(following), 1 if queries else number(leaving)
        return self.emit(
            "blocks",
            x,
            other=queries,
            channels=leaving.channels if queries is None else queries.channels,
            body=body,
            taps=size,
            size=memory[0],
            keep=memory[1],
            rate=rate,
            dilation=dilation,
            weights=first.detach(),
            numbers=[heads],
        )

    def _check_heads(self, heads: int, channels: int, has_pairs: bool) -> None:
        self.expect(heads >= 1 and channels % heads == 0, f"{channels} channels in {heads} heads")
        self.expect(has_pairs, f"no keys and values of {channels} channels each")

    def every(self, x: Value, stride: int) -> Value:
        """Every stride-th row, from the first on."""
        if stride == 1:
            return x
        rows = x.rows // stride
        return self.emit("unfold", x, rows=rows, channels=x.channels, taps=1, stride=stride)

    def unfold(self, x: Value, conv: Window) -> Value:
        """The frames that a convolution reads, one after another along the channels."""
        return self._window("unfold", x, conv, channels=conv.kernel * x.channels)

    def depthwise(self, x: Value, conv: Window, weight: Tensor) -> Value:
        """The convolution of each channel with its own taps, `[C, kernel]`."""
        return self._window("depthwise", x, conv, filters=weight.detach())

    def _window(self, code: str, x: Value, conv: Window, **fields: Any) -> Value:
        return self.emit(
            code,
            x,
            rows=x.rows // conv.stride,
            keep=conv.keep,
            taps=conv.kernel,
            stride=conv.stride,
            dilation=conv.dilation,
            left=conv.left,
            **fields,
        )

    def separable(self, x: Value, conv: SeparableConv, residual: Value | None = None) -> Value:
        """f(W (w * x) + b + residual)."""
        *_, depthwise, weight, bias = conv.packed.weights
        assert weight is not None
        assert bias is not None
        weight, scale = conv.factors or (weight, None)
        if conv.packed.shape.precision == "int8":
            weight, scale = _levels(weight)
        return self._separable(x, conv.packed.shape, depthwise, weight, bias, residual, scale)

    def _separable(
        self,
        x: Value,
        shape: Shape,
        depthwise: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        residual: Value | None = None,
        scale: Tensor | None = None,
    ) -> Value:
        more: dict[str, Any] = _activation(shape.activation, shape.c_out)
        if depthwise is not None:
            left, right = shape.padding
            more |= {"filters": depthwise, "taps": shape.taps, "dilation": shape.dilation}
            more |= {"left": left, "keep": right // shape.stride * shape.stride + left}
        return self.emit(
            "separable",
            x,
            rows=x.rows // shape.stride,
            channels=shape.c_out,
            other=residual,
            stride=shape.stride,
            precision=PRECISIONS.index(shape.precision),
            weights=weight,
            bias=torch.stack([torch.ones_like(bias) if scale is None else scale, bias]),
            **more,
        )

    def _call(self, layer: nn.Module, x: Value, **fields: Any) -> Value:
        self.outside.append((layer, x.channels))
        return self.emit("call", x, size=len(self.outside) - 1, **fields)


def _levels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The integers from −127 to 127 that int8 makes of each row of a matrix, and their steps."""
    top = weight.abs().amax(1)
    step = torch.where(top > 0, top / 127, 1.0)
    # + 0 makes a 0 of −0, which int8 does not have
    return (weight / step[:, None]).round() + 0.0, step


def _activation(activation: Activation, channels: int) -> dict[str, Any]:
    """The fields of an activation."""
    if not activation.is_program:
        return {"activation": activation.kind}
    return {"activation": activation.kind, "numbers": activation.numbers(channels)}


class TorchLayers:
    """The layers of a plan that run in torch, for the sessions of one batch."""

    def __init__(self, layers: list[tuple[nn.Module, int]], sessions: int) -> None:
        self._layers = layers
        self.states: list[State] = [() for _ in range(sessions)]
        for session in range(sessions):
            self.start(session)

    def start(self, session: int) -> None:
        """Sets the states of a session to those before its first row."""
        self.states[session] = tuple(
            layer.init_state(1, channels) if isinstance(layer, StreamLayer) else ()
            for layer, channels in self._layers
        )

    def arrays(self, session: int) -> dict[str, NDArray[Any]]:
        """The arrays of a session's states by name."""
        return arrays_of(self.states[session])

    def restore(self, session: int, arrays: dict[str, NDArray[Any]]) -> None:
        """Restores what `arrays` returned."""
        self.states[session] = restored(self.states[session], arrays.values())

    def bind(
        self,
        number: int,
        x: Floats,
        valid: Floats,
        other: Floats | None,
        y: Floats,
        y_valid: Floats,
    ) -> Callable[[int], None]:
        """A function that runs a layer for a session in this memory; see `OutsideLayers`."""
        layer, _ = self._layers[number]
        given, made, inference = _channels_last(x), _channels_last(y), torch.inference_mode()
        real = np.empty(valid.shape, np.bool_)
        c = Chunk(given, torch.from_numpy(real)[None])
        shortcut = None if other is None else _channels_last(other)

        def merge(session: int) -> None:
            with inference:
                made.copy_(layer(shortcut, given))
                y_valid[:] = valid

        if not isinstance(layer, StreamLayer):
            return merge
        step = layer.step

        def run(session: int) -> None:
            with inference:
                states = self.states[session]
                np.not_equal(valid, 0, out=real)
                out, state = step(c, states[number])
                made.copy_(out.x)
                y_valid[:] = out.valid.numpy()[0]
                if state is not states[number]:
                    self.states[session] = (*states[:number], state, *states[number + 1 :])

        return run


def _channels_last(rows: Floats) -> Tensor:
    """The tensor `[1, C, T]` over the memory of rows `[T, C]`."""
    return torch.from_numpy(rows)[None].transpose(1, 2)
