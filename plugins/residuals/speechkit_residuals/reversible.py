"""Layers with an inverse, and a sequence of them that stores none of their activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, Delay, Serial, State, StreamLayer, fuse
from speechkit_residuals.parts import cat_channels
from speechkit_residuals.space_to_depth import depth_of_frames, frames_of_depth

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

_Back = tuple[Tensor, Tensor, dict[Tensor, Tensor]]
"""A layer's input, its gradient, and the gradients of parameters."""


class Reversible(StreamLayer):
    """y = add(x, body(read(x))), where `read` returns channels that `add` does not change.

    So the inverse is x = undo(y, body(read_back(y))). Invalid frames of the body's output are 0.
    With a stride the last one of an utterance is completed by zeros, which the body takes for valid
    frames. Shape: `[B, C, T]` → `[B, C', ceil(T / stride)]`, C' = C without a stride.
    """

    strides = False
    """Whether `add` takes a body with a stride."""

    def __init__(self, body: StreamLayer) -> None:
        super().__init__()
        if body.rate != 1 or (body.stride != 1 and not self.strides):
            raise ComponentError(
                f"a body of stride {body.stride} cannot be reversed; give stride 1"
            )
        self.body, self.stride = body, body.stride
        self.wait = Delay(body.delay * body.stride)
        self.delay, self.left, self.right = body.delay, body.left, body.right

    def read(self, x: Tensor) -> Tensor:
        """The body's input, from the layer's input."""
        raise AssertionError("a Reversible is one of its subclasses")

    def read_back(self, y: Tensor) -> Tensor:
        """The body's input, from the layer's output."""
        raise AssertionError("a Reversible is one of its subclasses")

    def add(self, x: Tensor, made: Tensor) -> Tensor:
        """The layer's output, from its input and the body's output."""
        raise AssertionError("a Reversible is one of its subclasses")

    def undo(self, y: Tensor, made: Tensor) -> Tensor:
        """The layer's input, from its output and the body's output."""
        raise AssertionError("a Reversible is one of its subclasses")

    def body_width(self, c_in: int) -> int:
        """The number of channels of `read`."""
        raise AssertionError("a Reversible is one of its subclasses")

    def forward(self, c: Chunk) -> Chunk:
        c, own = self._whole(c)
        return Chunk(self.add(c.x, self._made(self.read(c.x), c.valid)), own)

    def inverse(self, c: Chunk) -> Chunk:
        """The input for the output `c`; in training with the same random numbers and statistics."""
        valid = self._valid_in(c)
        return Chunk(self.undo(c.x, self._made(self.read_back(c.x), valid)), valid)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        body = self.body.init_state(batch, self.body_width(c_in), dtype, device)
        return body, self.wait.init_state(batch, c_in, dtype, device)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        c, _ = self._whole(c)
        made, of_body = self.body.step(Chunk(self.read(c.x), c.valid), state[0])
        late, of_wait = self.wait.step(c, state[1])
        own = late.valid[:, :: self.stride]
        return Chunk(self.add(late.x, made.masked), own), (of_body, of_wait)

    def lower(self, program: Lowering, x: Value) -> Value:
        if self.stride > 1:
            program.refuse("an incomplete stride has no native form")
        program.require(self, "lower_read", "read")
        program.require(self, "lower_add", "add")
        made = program.add(fuse(self.body), self.lower_read(program, x))
        return self.lower_add(program, program.add(self.wait, x), made)

    def lower_read(self, program: Lowering, x: Value) -> Value:
        """Adds `read` to a native program."""
        program.refuse(f"no native {type(self).__name__}")

    def lower_add(self, program: Lowering, x: Value, made: Value) -> Value:
        """Adds `add` to a native program."""
        program.refuse(f"no native {type(self).__name__}")

    def back(self, c: Chunk, dy: Tensor) -> _Back:
        """The input, its gradient and the parameters', from the output `c` and its gradient.

        It runs the body once.
        """
        given = self.read_back(c.x).detach().requires_grad_()
        learned = [p for p in self.body.parameters() if p.requires_grad]
        own = [p for p in self.parameters(recurse=False) if p.requires_grad]
        with torch.enable_grad():
            made = self._made(given, self._valid_in(c))
        x = self.undo(c.x, made.detach()).detach().requires_grad_()
        leaf = made.detach().requires_grad_()
        with torch.enable_grad():
            again, reading = self.add(x, leaf), self.read(x)
        dx, d_made, *d_own = torch.autograd.grad(again, [x, leaf, *own], dy)
        d_given, *d_body = torch.autograd.grad(made, [given, *learned], d_made, allow_unused=True)
        if d_given is not None:
            dx = dx + torch.autograd.grad(reading, x, d_given)[0]
        gradients = zip([*own, *learned], [*d_own, *d_body], strict=True)
        return x.detach(), dx, {p: g for p, g in gradients if g is not None}

    def _whole(self, c: Chunk) -> tuple[Chunk, Tensor]:
        # whole strides, and the validity of the output
        if self.stride == 1:
            return c, c.valid
        missing = -c.x.shape[2] % self.stride
        x = F.pad(c.masked.transpose(1, 2), (0, 0, 0, missing)).transpose(1, 2)
        own = c.valid[:, :: self.stride]
        return Chunk(x, own.repeat_interleave(self.stride, 1)), own

    def _valid_in(self, c: Chunk) -> Tensor:
        return c.valid.repeat_interleave(self.stride, 1)

    def _made(self, given: Tensor, valid: Tensor) -> Tensor:
        made: Chunk = self.body(Chunk(given, valid))
        return made.masked


class Coupling(Reversible):
    """(a, b) → (ψ(b), ψ(a) + body(b)) on the halves of the channels.

    ψ concatenates the frames of a stride of the body along the channels; without one it is the
    identity. Two of them are the reversible block of Gomez et al., arXiv:1707.04585; one is
    i-RevNet's, Jacobsen et al., arXiv:1802.07088.
    """

    strides = True

    def read(self, x: Tensor) -> Tensor:
        return x[:, x.shape[1] // 2 :]

    def read_back(self, y: Tensor) -> Tensor:
        return frames_of_depth(y[:, : y.shape[1] // 2], self.stride)

    def add(self, x: Tensor, made: Tensor) -> Tensor:
        a, b = (depth_of_frames(half, self.stride) for half in x.chunk(2, 1))
        return cat_channels([b, a + made])

    def undo(self, y: Tensor, made: Tensor) -> Tensor:
        b, added = y.chunk(2, 1)
        halves = added - made, b
        return cat_channels([frames_of_depth(half, self.stride) for half in halves])

    def channels_out(self, c_in: int) -> int:
        return c_in * self.stride

    def lower_read(self, program: Lowering, x: Value) -> Value:
        half = x.channels // 2
        return program.part(x, half, half)

    def lower_add(self, program: Lowering, x: Value, made: Value) -> Value:
        half = x.channels // 2
        first = program.added(program.part(x, 0, half), made)
        return program.join(program.part(x, half, half), first)

    def body_width(self, c_in: int) -> int:
        return c_in // 2


class ReversibleSequence(Serial):
    """Reversible layers in series; training stores the last output only.

    The backward pass computes each layer's input from its output. It uses the random numbers and
    the buffers (a batch norm's statistics) from before the layer's forward pass. Afterwards the
    buffers have their values from after it. Shape: `[B, C, T]` → that of its layers.
    """

    def forward(self, c: Chunk) -> Chunk:
        learned = [p for p in self.parameters() if p.requires_grad]
        learns = torch.is_grad_enabled() and (c.x.requires_grad or learned)
        if not learns or torch.compiler.is_compiling():
            return super().forward(c)
        place = {p: index for index, p in enumerate(learned)}
        rows = [
            _Row(layer, {n: place[p] for n, p in layer.named_parameters() if p in place})
            for layer in self
        ]
        y, valid = _Reversed.apply(rows, c.valid, c.masked, *learned)  # type: ignore[no-untyped-call]
        return Chunk(y, valid)

    # in evaluation the layers run in series
    lower = Serial.lower
    lower_to_rings = Serial.lower_to_rings

    def inverse(self, c: Chunk) -> Chunk:
        """The input for the output `c`, in evaluation; of utterances of whole strides."""
        for layer in reversed(list(self)):
            assert isinstance(layer, Reversible)
            c = layer.inverse(c)
        return c


class _Moment(NamedTuple):
    """The state before a layer's forward pass: random number generators and buffers."""

    cpu: Tensor
    cuda: Tensor | None
    buffers: list[Tensor]

    @classmethod
    def now(cls, layer: nn.Module, device: torch.device) -> _Moment:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, [b.clone() for b in layer.buffers()])

    @contextmanager
    def again(self, layer: nn.Module, device: torch.device) -> Iterator[None]:
        """Restores the state within the block, and the current state after it."""
        left = [b.clone() for b in layer.buffers()]
        with torch.random.fork_rng([device] if self.cuda is not None else []):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, device)
            _fill(layer, self.buffers)
            try:
                yield
            finally:
                _fill(layer, left)


class _Row(nn.Module):
    """A layer and the index of each of its parameters among those of the sequence."""

    def __init__(self, layer: StreamLayer, places: dict[str, int]) -> None:
        super().__init__()
        assert isinstance(layer, Reversible)
        self.layer, self.places = layer, places

    def forward(self, c: Chunk, dy: Tensor) -> _Back:
        return self.layer.back(c, dy)

    def back(self, c: Chunk, dy: Tensor, learned: list[Tensor]) -> _Back:
        """`Reversible.back` with the parameter tensors of the forward pass."""
        given = {f"layer.{name}": learned[place] for name, place in self.places.items()}
        found: _Back = torch.func.functional_call(self, given, (c, dy))
        return found


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: list[_Row], valid: Tensor, x: Tensor, *learned: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.rows, ctx.moments, ctx.before = rows, [], []
        c = Chunk(x, valid)
        kind = x.device.type
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        for row in rows:
            ctx.moments.append(_Moment.now(row.layer, x.device))
            ctx.before.append(c.valid if row.layer.stride > 1 else None)
            c = row.layer(c)
        ctx.mark_non_differentiable(c.valid)
        ctx.save_for_backward(*c, *learned)
        return c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: None) -> tuple[Tensor | None, ...]:
        y, valid, *saved = ctx.saved_tensors
        learned = [value.detach().requires_grad_() for value in saved]
        gradients: dict[Tensor, Tensor] = {}
        undone = zip(reversed(ctx.rows), reversed(ctx.moments), reversed(ctx.before), strict=True)
        for row, moment, before in undone:
            with moment.again(row.layer, y.device), torch.autocast(*ctx.autocast):
                y, dy, of_row = row.back(Chunk(y, valid), dy, learned)
            if before is not None:
                valid = before
                # without what completed the last stride
                y, dy = y[:, :, : valid.shape[1]], dy[:, :, : valid.shape[1]]
            for value, gradient in of_row.items():
                gradients[value] = gradients.get(value, 0) + gradient
        return None, None, dy, *(gradients.get(value) for value in learned)


def _fill(layer: nn.Module, values: list[Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(layer.buffers(), values, strict=True):
            buffer.copy_(value)
