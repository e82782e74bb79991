"""Blocks as steps of a differential equation: a sum of branches, and solvers of higher order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.nn import Add, BodyMaker, Chunk, Residual, Serial, StreamLayer
from speechkit_residuals.linked import Linked
from speechkit_residuals.parts import chosen, pre_activated

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

Tableau = tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]
SOLVERS: dict[str, Tableau] = {
    "euler": (((),), (1.0,)),
    "midpoint": (((), (0.5,)), (0.0, 1.0)),
    "heun": (((), (1.0,)), (0.5, 0.5)),
    "rk4": (((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Butcher's tableaus: the coefficients a_ij of each stage, and the weights b_i of the sum."""


class OdeSteps(Linked):
    """Steps of size h of dx/dt = f(x): k_i = f(x + h Σ_j a_ij k_j), y = x + h Σ_i b_i k_i.

    All stages and steps share f. Look-ahead and cost grow with their number; the number of
    parameters does not. Shape: `[B, C, T]` → the same.
    """

    def __init__(self, f: StreamLayer, solver: str = "rk4", h: float = 1.0, steps: int = 1) -> None:
        chosen("block ode", "solver", solver, tuple(SOLVERS))
        if steps < 1 or f.stride != 1:
            raise ComponentError(
                f"block ode: steps={steps}, a body of stride {f.stride}; give steps from 1 and a "
                "body of stride 1"
            )
        stages, weights = SOLVERS[solver]
        super().__init__([f], repeats=len(weights) * steps)
        self.stages, self.weights, self.h = stages, weights, h

    def into(self, index: int, history: list[Chunk]) -> Tensor:
        stage = self.stages[index % len(self.stages)]
        return self._along(history[0].x, stage, [k.x for k in history[1:]])

    def out_of(self, index: int, y: Chunk, history: list[Chunk]) -> Tensor:
        if not self.forgets(index):
            return y.x
        return self._along(history[0].x, self.weights, [*(k.x for k in history[1:]), y.x])

    def forgets(self, index: int) -> bool:
        return (index + 1) % len(self.stages) == 0

    def _along(self, x: Tensor, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
        for weight, slope in zip(weights, slopes, strict=True):
            x = x + self.h * weight * slope if weight else x
        return x

    def lower_into(self, program: Lowering, index: int, history: list[Value]) -> Value:
        stage = self.stages[index % len(self.stages)]
        return self._lower_along(program, history[0], stage, history[1:])

    def lower_out_of(self, program: Lowering, index: int, y: Value, history: list[Value]) -> Value:
        if not self.forgets(index):
            return y
        return self._lower_along(program, history[0], self.weights, [*history[1:], y])

    def _lower_along(
        self, program: Lowering, x: Value, weights: tuple[float, ...], slopes: list[Value]
    ) -> Value:
        for weight, slope in zip(weights, slopes, strict=True):
            x = program.added(x, program.scaled(slope, self.h * weight)) if weight else x
        return x


def ode(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    solver: str = "rk4",
    h: float = 1.0,
    steps: int = 1,
) -> StreamLayer:
    """`steps` solver steps of size h along a pre-activation body, after a projection if needed.

    With "euler", h = 1 and one step it is an ordinary residual. The statistics of a batch norm
    within the body are over all stages together; rms (speechkit-norms) has no such statistics.
    Zhong et al., arXiv:2212.06011.
    """
    make_body.narrow_only("ode")
    body = pre_activated(make_body, [c_out] * (make_body.repeat + 1))
    solve = OdeSteps(Serial(*body), solver, h, steps)
    if c_in == c_out:
        return solve
    return Serial(project=make_body.shortcut(c_in, c_out), solve=solve)


def parallel(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    expand: int = 4,
    norm: str = "shared",
) -> StreamLayer:
    """y = shortcut(x) + body(norm(x)) + feed_forward(norm(x)), in parallel.

    The feed-forward branch has `expand` times the channels inside. With "separate" each branch has
    its own norm. It is one Euler step along the sum of both. Zhong et al., arXiv:2212.06011.
    """
    chosen("block parallel", "norm", norm, ("shared", "separate"))
    make_body.narrow_only("parallel")
    body: StreamLayer = make_body(c_in, c_out)
    inner = expand * c_out
    feed_forward: StreamLayer = Serial(
        widen=make_body.channel(c_in, inner),
        after=make_body.after(inner),
        narrow=make_body.channel(inner, c_out),
    )
    merge = make_body.merge(c_out, index, depth)
    beside = make_body.matched(c_in, c_out)
    if norm == "separate":
        body = Serial(norm=make_body.norm(c_in), body=body)
        feed_forward = Serial(norm=make_body.norm(c_in), feed_forward=feed_forward)
        return Residual(Residual(body, feed_forward, Add()), beside, merge)
    both = Serial(norm=make_body.norm(c_in), sum=Residual(body, feed_forward, Add()))
    return Residual(both, beside, merge)
