"""Statements of theory papers that can be computed: both sides, and whether they are equal.

The parameters are there to show that the statement fails without what the paper requires.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from speechkit_methods.matching import Matching
from speechkit_methods.scenarios import Finding


def steps_in_context(softmax: bool = False) -> Finding:
    """Layers of linear attention over examples in the context are steps of gradient descent.

    Tokens (x_i, y_i) of a linear regression and a query (x, 0). Each layer adds
    (rate / n) Σ_i r_i (x_i · x) to the query's output, and the same to the predictions whose
    residuals the r_i = y_i − ŷ_i of the context are. Ten layers are ten steps from w = 0. Source:
    arXiv:2411.16549, which makes the steps of deeper nets out of such layers.
    """
    generator = Generator().manual_seed(0)
    x = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(6, generator=generator, dtype=torch.float64)
    query = torch.randn(6, generator=generator, dtype=torch.float64)
    rate, steps = 0.3, 10
    tokens = torch.cat([x, query[None]])
    similar = tokens @ x.T
    weights = torch.softmax(similar, 1) if softmax else similar / len(x)
    predicted = torch.zeros(31, dtype=torch.float64)
    w = torch.zeros(6, dtype=torch.float64)
    for _ in range(steps):
        predicted = predicted + rate * weights @ (y - predicted[:-1])
        w = w + rate / len(x) * x.T @ (y - x @ w)
    difference = float((predicted[-1] - query @ w).abs() / (query @ w).abs())
    return Finding(
        "arXiv:2411.16549",
        "ten layers of linear attention predict what ten steps of gradient descent do",
        {"relative difference of the predictions": difference},
        difference < 1e-6,
    )


def parallel_duality(decay: float = 0.1, branches: int = 8, balanced: bool = True) -> Finding:
    """Weight decay on parallel two-layer branches is a convex group penalty on their products.

    min ½‖Σ_j X w_j v_j − y‖² + (decay/2) Σ_j (‖w_j‖² + v_j²) by gradient descent has the optimum of
    the convex program min ½‖X u − y‖² + decay ‖u‖, and every branch ends with ‖w_j‖ = |v_j|. With
    `balanced=False` only the first layers are decayed. Ergen & Pilanci, arXiv:2110.06482.
    """
    generator = Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64) / 40**0.5
    y = torch.randn(40, generator=generator, dtype=torch.float64)
    w = (0.3 * torch.randn(branches, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    v = (0.3 * torch.randn(branches, generator=generator, dtype=torch.float64)).requires_grad_()
    u = torch.zeros(5, dtype=torch.float64)

    def objective() -> Tensor:
        fit = (x @ (v @ w) - y).square().sum() / 2
        sizes = w.square().sum() + (v.square().sum() if balanced else 0)
        whole: Tensor = fit + decay / 2 * sizes
        return whole

    for _ in range(4000):
        gradients = torch.autograd.grad(objective(), (w, v))
        with torch.no_grad():
            w -= 0.2 * gradients[0]
            v -= 0.2 * gradients[1]
        # a proximal step of the convex program: shrink the length
        u = u - 0.2 * x.T @ (x @ u - y)
        u = u * (1 - 0.2 * decay / u.norm().clamp(min=1e-12)).clamp(min=0)
    convex = (x @ u - y).square().sum() / 2 + decay * u.norm()
    gap = float((objective().detach() - convex).abs() / convex)
    unequal = float((w.detach().norm(dim=1) - v.detach().abs()).abs().max())
    return Finding(
        "arXiv:2110.06482",
        "the decayed parallel branches reach the optimum of the convex program, each balanced",
        {"optimum": float(convex), "relative gap": gap, "largest ||w_j| - |v_j||": unequal},
        gap < 1e-3 and unequal < 1e-2 and float(u.norm()) > 0.1,
    )


def matching_starts(matching: bool = True) -> Finding:
    """The matching loss of ReLU has a gradient at w = 0, where that of the squared error is 0.

    One ReLU neuron learns another one from 200 examples, by 300 steps from w = 0; with
    `matching=False` by the squared error. Wang et al., arXiv:2306.07892.
    """
    generator = Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    target = F.normalize(torch.randn(6, generator=generator, dtype=torch.float64), dim=0)
    y = F.relu(x @ target)
    w = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    integral = Matching("relu").integral
    first = 0.0
    for step in range(300):
        z = x @ w
        squared = (F.relu(z) - y).square() / 2
        loss = (integral(z) - y * z if matching else squared).mean()
        (gradient,) = torch.autograd.grad(loss, w)
        first = float(gradient.norm()) if step == 0 else first
        with torch.no_grad():
            w -= 0.5 * gradient
    distance = float((w.detach() - target).norm())
    return Finding(
        "arXiv:2306.07892",
        "descent of the matching loss from 0 finds the neuron; the squared error does not start",
        {"gradient at 0": first, "distance in the end": distance},
        first > 0.1 and distance < 1e-3,
    )


def bits_by_folding(folds: int = 6, slope: float = 2.0) -> Finding:
    """A chain of ReLU triangles reads the bits of a number: each fold gives one bit of Gray's code.

    g(x) = 2 relu(x) − 4 relu(x − ½) + 2 relu(x − 1), applied to (c + ½) / 64 for all codes c; bit k
    is whether the value before fold k is above ½. Vardi, Yehudai and Shamir, arXiv:2110.03187,
    memorise N labels by such bit extraction in a net of O(√N) weights.
    """
    codes = torch.arange(2**6)
    x = (codes.double() + 0.5) / 2**6
    bits = []
    for _ in range(folds):
        bits.append(x > 0.5)
        x = slope * F.relu(x) - 2 * slope * F.relu(x - 0.5) + slope * F.relu(x - 1)
    gray = codes ^ (codes >> 1)
    expected = torch.stack([(gray >> (5 - k)) & 1 for k in range(6)])
    found = torch.stack(bits[:6]).long()
    found = F.pad(found, (0, 0, 0, 6 - len(found)), value=-1)
    right = float((found == expected).all(0).sum())
    return Finding(
        "arXiv:2110.03187",
        "six folds give the six bits of all 64 codes",
        {"codes with all bits right": right},
        right == 64,
    )


IDENTITIES: dict[str, Callable[[], Finding]] = {
    "steps_in_context": steps_in_context,
    "parallel_duality": parallel_duality,
    "matching_starts": matching_starts,
    "bits_by_folding": bits_by_folding,
}
"""Each statement by the name that `speechkit verify` knows."""
