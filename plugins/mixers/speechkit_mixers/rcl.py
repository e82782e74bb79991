"""Blocks whose body reads its own output again: recurrent convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from speechkit.errors import ComponentError
from speechkit.nn import BodyMaker, Chunk, Delay, Residual, Serial, State, StreamLayer, fuse

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class RecurrentConv(StreamLayer):
    """y_0 = g(x), y_i = g(x + y_{i−1}), i = 1 … t, with one layer g; the output is y_t.

    It reads (t + 1) times as many frames before and after its own as g. The statistics of a batch
    norm in g are those of all steps together. Shape: `[B, C, T]` → the same. Alom et al., R2U-Net,
    arXiv:1802.06955, with one kernel for x and y as in its public code.
    """

    def __init__(self, g: StreamLayer, t: int = 2) -> None:
        super().__init__()
        if t < 0 or (g.stride, g.rate) != (1, 1):
            raise ComponentError(
                f"recurrent convolution: t={t}, a layer of stride {g.stride}; give t from 0 and a "
                "row of stride 1"
            )
        self.g, self.t, self.wait = g, t, Delay(g.delay)
        self.delay, self.left, self.right = (t + 1) * g.delay, (t + 1) * g.left, (t + 1) * g.right

    def forward(self, c: Chunk) -> Chunk:
        return self._run(c, lambda layer, x: layer(x))

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        layers = [self.g, *(self.wait, self.g) * self.t]
        return tuple(layer.init_state(batch, c_in, dtype, device) for layer in layers)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        before, after = iter(state), []

        def call(layer: StreamLayer, x: Chunk) -> Chunk:
            y, new = layer.step(x, next(before))
            after.append(new)
            return y

        return self._run(c, call), tuple(after)

    def _run(self, x: Chunk, call: Callable[[StreamLayer, Chunk], Chunk]) -> Chunk:
        y = call(self.g, x)
        for _ in range(self.t):
            x = call(self.wait, x)
            y = call(self.g, Chunk(x.x + y.x, y.valid))
        return y

    def lower(self, program: Lowering, x: Value) -> Value:
        g = fuse(self.g)
        y = program.add(g, x)
        for _ in range(self.t):
            x = program.add(self.wait, x)
            y = program.add(g, program.added(x, y))
        return y


def rcl(
    c_in: int, c_out: int, make_body: BodyMaker, index: int = 0, depth: int = 1, t: int = 2
) -> StreamLayer:
    """Each sub-block of the row is a recurrent convolution, after a 1×1 layer to its channels.

    The number of weights does not depend on `t`; look-ahead and cost are t + 1 times those of a
    body. With t = 0 each sub-block is computed once.
    """
    return Serial(project=_projected(make_body, c_in, c_out), body=_recurrent(make_body, c_out, t))


def rrcl(
    c_in: int, c_out: int, make_body: BodyMaker, index: int = 0, depth: int = 1, t: int = 2
) -> StreamLayer:
    """y = merge(x', rcl(x')), x' = W x: `rcl` with a residual around its recurrent convolutions."""
    body, merge = _recurrent(make_body, c_out, t), make_body.merge(c_out, index, depth)
    return Serial(
        project=_projected(make_body, c_in, c_out), sum=Residual(body, StreamLayer(), merge)
    )


def _projected(make_body: BodyMaker, c_in: int, c_out: int) -> StreamLayer:
    maker = make_body.each[0] if make_body.each else make_body
    return maker.channel(c_in, c_out)


def _recurrent(make_body: BodyMaker, channels: int, t: int) -> Serial:
    makers = make_body.each or (make_body,) * make_body.repeat
    bodies = (Serial(body=m.layer(channels, channels), after=m.after(channels)) for m in makers)
    return Serial(*(RecurrentConv(body, t) for body in bodies))
