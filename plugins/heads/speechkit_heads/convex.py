"""A head of two layers whose weights are the solution of a convex program."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from speechkit.component import Spec
from speechkit.errors import ComponentError, ConfigError, MissingExtraError
from speechkit.models import Model, build
from speechkit.nn import FrameWise, Pointwise, Serial, Taps
from speechkit.plugins import registry
from speechkit.probes import Examples
from speechkit.tasks import IGNORED
from speechkit.transforms import required

Array = NDArray[np.float64]
Loss = Literal["hinge", "squared"]

NEGLIGIBLE = 1e-6
"""A neuron that is smaller than this share of the largest is left out."""


def convex_relu(channels: int, labels: int, width: int = 64) -> Serial:
    """A relu(W x + b) at every frame, with `width` neurons and no second bias.

    It may be trained like any head; `convex_fit` sets its weights. Shape: `[B, C, T]` →
    `[B, labels, T]`.
    """
    return Serial(
        first=Pointwise(channels, width, bias=True),
        relu=FrameWise(nn.ReLU()),
        second=Pointwise(width, labels),
    )


@dataclass(frozen=True)
class Solution:
    """Neurons `[C + 1, n]`, the last row of which is their bias, their weights `[n]`, and the value
    of the program with its part without the penalty."""

    neurons: Array
    weights: Array
    value: float
    loss: float

    def scores(self, x: Array) -> Array:
        """relu(x̃ W) α of frames `[N, C]`, x̃ = (x, 1)."""
        found: Array = np.maximum(with_one(x) @ self.neurons, 0) @ self.weights
        return found


def with_one(x: Array) -> Array:
    """Frames `[N, C]` with a channel of ones, for the bias."""
    made: Array = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return made


def patterns_of(x: Array, count: int, generator: np.random.Generator) -> Array:
    """The frames at which a neuron is on: 1[x̃ a ≥ 0] for `count` directions a ~ N(0, I), each
    pattern once, and the pattern of a neuron that is always on. Shape: x `[N, C]` → 0 and 1
    `[N, patterns]`."""
    directions = generator.standard_normal((x.shape[1] + 1, count))
    drawn = with_one(x) @ directions >= 0
    each: Array = np.unique(np.c_[drawn, np.ones(len(x), bool)], axis=1).astype(float)
    return each


def solve(
    x: Array, y: Array, patterns: Array, beta: float, epsilon: float = 0.0, loss: Loss = "hinge"
) -> Solution:
    """The best network whose neurons are on at the frames of one of `patterns`, else off.

    With D_h the diagonal matrix of pattern h and f = Σ_h D_h X̃ (v_h − u_h), it minimises

        (1/N) Σ_k max(0, 1 − y_k f_k + ε ‖Σ_h D_hk (v_h − u_h)‖₁) + β Σ_h (‖v_h‖ + ‖u_h‖)

    for (2 D_h − I) X̃ v_h ≥ ε ‖v_h‖₁ and the same for u_h, where ‖·‖₁ leaves out the bias. No change
    of x by at most ε in every channel switches a neuron at one of the frames, so that the first sum
    is the network's worst hinge loss under such changes. The loss "squared" is ½ Σ_k (f_k − y_k)²,
    without ε. A vector v is the neuron v / √‖v‖ of weight √‖v‖, and u one of weight −√‖u‖: the
    network's ½ β (‖W‖² + ‖α‖²) is the penalty. Shape: x `[N, C]`, y `[N]`.

    Raises ComponentError where the solver fails. Source: Bai et al., arXiv:2105.12237.
    """
    try:
        import cvxpy as cp
    except ImportError as error:
        raise MissingExtraError(
            "cvxpy", "convex", "transform convex_fit", of="speechkit-heads"
        ) from error

    frames, shape = len(x), (x.shape[1] + 1, patterns.shape[1])
    both = plus, minus = cp.Variable(shape), cp.Variable(shape)
    f = cp.sum(cp.multiply(patterns, with_one(x) @ (plus - minus)), axis=1)
    if loss == "squared":
        fit = cp.sum_squares(f - y) / 2
    else:
        change = cp.norm1(patterns @ (plus - minus)[:-1].T, axis=1) if epsilon else np.zeros(frames)
        fit = cp.sum(cp.pos(1 - cp.multiply(y, f) + epsilon * change)) / frames
    within = []
    for v in both:
        sides = cp.multiply(2 * patterns - 1, with_one(x) @ v)
        room = cp.reshape(cp.norm1(v[:-1], axis=0), (1, shape[1]), order="C") if epsilon else 0
        within.append(sides >= epsilon * (np.ones((frames, 1)) @ room if epsilon else 0))
    penalty = sum(cp.sum(cp.norm(v, 2, axis=0)) for v in both)
    program = cp.Problem(cp.Minimize(fit + beta * penalty), within)
    program.solve(solver=cp.CLARABEL)
    if program.status != cp.OPTIMAL:
        raise ComponentError(
            f"convex_fit: the solver ends as {program.status}; give fewer frames or patterns"
        )
    vectors = np.concatenate([plus.value, minus.value], axis=1)
    roots = np.sqrt(np.linalg.norm(vectors, axis=0))
    signs = np.repeat([1.0, -1.0], shape[1])
    kept = roots > np.sqrt(NEGLIGIBLE) * roots.max()
    return Solution(
        vectors[:, kept] / roots[kept],
        (signs * roots)[kept],
        float(program.value),
        float(fit.value),
    )


@dataclass(frozen=True)
class ConvexFit:
    """Replaces a head for two labels by `convex_relu` with the weights that `solve` finds.

    The encoder stays as it is. The program reads what the head read in `frames` of the frames of
    the recordings, drawn by their seed, with the targets −1 and 1 for labels 0 and 1. `patterns`
    is the number of random patterns, `beta` the weight of the penalty, and `epsilon` the largest
    change of a channel of the head's input. The score of label 0 is 0, that of label 1 f.

    Raises ConfigError without recordings and for a net that has no head for two labels at every
    frame, and MissingExtraError without the package cvxpy.
    """

    epsilon: float = 0.0
    beta: float = 1e-3
    patterns: int = 32
    frames: int = 300
    loss: Loss = "hinge"

    def __post_init__(self) -> None:
        if not (self.epsilon >= 0 and self.beta > 0 and self.patterns >= 0 and self.frames > 0):
            raise ComponentError(
                f"convex_fit: epsilon={self.epsilon}, beta={self.beta}, patterns={self.patterns}, "
                f"frames={self.frames}; give beta and frames above 0, the others from 0 up"
            )
        if self.loss not in get_args(Loss) or (self.loss == "squared" and self.epsilon):
            raise ComponentError(
                f"convex_fit: loss={self.loss}, epsilon={self.epsilon}; give loss=hinge, or "
                "loss=squared with epsilon=0"
            )

    @torch.no_grad()
    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        examples = required(examples, "convex_fit")
        head = registry().find("head", Spec.parse(model.config.head).name).component
        if head.task != "frame" or head.time != "frame" or len(model.labels) != 2:
            raise ConfigError(
                f"convex_fit takes a net with 2 labels and a head such as frame, not one with "
                f"{len(model.labels)} labels and head={model.config.head}"
            )
        x, y = _frames(model, examples)
        generator = np.random.default_rng(examples.seed)
        drawn = np.sort(generator.permutation(len(x))[: self.frames])
        x, y = x[drawn], y[drawn]
        patterns = patterns_of(x, self.patterns, generator)
        found = solve(x, y, patterns, self.beta, self.epsilon, self.loss)
        report = {
            "value": found.value,
            "loss": found.loss,
            "neurons": len(found.weights),
            "patterns": patterns.shape[1],
            "frames": len(x),
        }
        return _with_head(model, found), report


def _frames(model: Model, examples: Examples) -> tuple[Array, Array]:
    """What the head reads in all frames that have a target `[N, C]`, and −1 or 1 for each."""
    inputs, targets = [], []
    with Taps({"head": model.head}) as taps:
        for batch, features in examples:
            target, _ = examples.targets(model.score(features), batch)
            ((_, _, (c,), _),) = taps.take()
            inputs.append(c.x.transpose(1, 2)[target != IGNORED])
            targets.append(target[target != IGNORED])
    y = 2 * torch.cat(targets).double() - 1
    return torch.cat(inputs).double().numpy(force=True), y.numpy(force=True)


def _with_head(model: Model, found: Solution) -> Model:
    """The model with the network that the program found as its head."""
    head = Spec("heads/convex_relu", {"width": len(found.weights)})
    made = build(replace(model.config, head=head))
    neurons, weights = torch.from_numpy(found.neurons).T, torch.from_numpy(found.weights)
    own = {
        "head.first.weight": neurons[:, :-1],
        "head.first.bias": neurons[:, -1],
        "head.second.weight": torch.stack([torch.zeros_like(weights), weights]),
    }
    rest = {name: x for name, x in model.state_dict().items() if not name.startswith("head.")}
    made.load_state_dict(rest | own)
    return made.eval()
