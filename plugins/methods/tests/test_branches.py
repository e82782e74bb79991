"""The decay of branches at the optimum that is known, and ranks that are planted."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from speechkit_methods.branches import BranchPowerDecay, bodies, branch_power, effective_rank
from torch import Tensor, nn

from speechkit.errors import TrainingError
from speechkit.models import build
from speechkit.probes import Examples, probe
from speechkit.train import Run

BETA = 2.0


def task() -> tuple[Tensor, Tensor]:
    """Inputs `[40, 8]` with orthonormal columns, and targets `[40, 5]`."""
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(40, 8, generator=chance, dtype=torch.float64)
    return torch.linalg.qr(x).Q, torch.randn(40, 5, generator=chance, dtype=torch.float64)


def optimum(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """The minimum of ½ ‖XW − Y‖² + β Σ singular values of W: those of XᵀY less β."""
    left, values, right = torch.linalg.svd(x.T @ y, full_matrices=False)
    less = (values - BETA).clamp(min=0)
    w = left @ less.diag() @ right
    return w, float(0.5 * (x @ w - y).square().sum() + BETA * less.sum())


def trained(branches: int, widths: list[int]) -> tuple[Tensor, float]:
    """The product W and the objective of branches of linear layers whose outputs are added."""
    x, y = task()
    chance = torch.Generator().manual_seed(1)
    shapes = [8, *widths, 5]
    layers = [
        torch.randn(branches, a, b, generator=chance, dtype=torch.float64).requires_grad_()
        for a, b in pairwise(shapes)
    ]

    def product() -> Tensor:
        w = layers[0]
        for layer in layers[1:]:
            w = w @ layer
        return w.sum(0)

    def objective() -> Tensor:
        penalty = branch_power(zip(*(layer.unbind() for layer in layers), strict=True))
        return 0.5 * (x @ product() - y).square().sum() + BETA * penalty

    optimizer = torch.optim.LBFGS(
        layers,
        max_iter=300,
        line_search_fn="strong_wolfe",
        history_size=50,
        tolerance_grad=1e-10,
        tolerance_change=0,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimizer.step(closure)
    return product().detach(), float(objective().detach())


@pytest.mark.parametrize(("branches", "widths"), [(1, [8]), (12, [1, 1])])
def test_paper_032_the_optimum_is_that_of_the_singular_values(
    branches: int, widths: list[int]
) -> None:
    w, best = optimum(*task())
    found, reached = trained(branches, widths)
    assert reached == pytest.approx(best, rel=1e-9)
    torch.testing.assert_close(found, w, rtol=0, atol=1e-6)
    assert (torch.linalg.svdvals(found)[3:] < 1e-9).all()


def test_each_branch_has_the_power_of_its_depth() -> None:
    two, three = torch.full((2, 2), 1.0), torch.full((9,), 1.0)
    assert branch_power([[two]]).item() == 2
    assert branch_power([[two, two]]).item() == 4
    assert branch_power([[three, two, two], [two]]).item() == pytest.approx((27 + 8 + 8) / 3 + 2)


def test_a_weight_of_0_has_a_gradient() -> None:
    w = torch.zeros(3, 3, requires_grad=True)
    branch_power([[w], [w, w], [w, w, w]]).backward()
    assert w.grad is not None
    assert not w.grad.any()


def test_the_branches_of_a_net_are_the_bodies_of_its_blocks(run: Run) -> None:
    model = build(run.model)
    found = {name: [tuple(w.shape) for w in ws] for name, ws in bodies(model).items()}
    assert found == {
        "stem": [(16, 1, 5), (8, 16)],
        "encoder.0.sum": [(8, 1, 5), (8, 8), (8, 1, 5), (8, 8)],
        "encoder.1": [(8, 8, 1)],
    }


def test_the_gradient_of_the_weighted_sum_is_added(run: Run) -> None:
    model = build(run.model)
    method = BranchPowerDecay(weight=0.5)
    method.start(model, None)  # type: ignore[arg-type]

    def again() -> float:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return 3.0

    penalty = 0.5 * branch_power(bodies(model).values())
    slopes = torch.autograd.grad(penalty, list(model.parameters()), materialize_grads=True)
    assert method.gradients(again, model, 1) == pytest.approx(3 + float(penalty.detach()))
    for parameter, slope in zip(model.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, 1 + slope)
    assert any(slope.any() for slope in slopes)


def test_a_model_without_bodies_is_refused() -> None:
    with pytest.raises(TrainingError, match="no block of the model has a body; give block=plain"):
        BranchPowerDecay().start(nn.Linear(2, 2), None)  # type: ignore[arg-type]


def test_effective_rank_counts_equal_values() -> None:
    assert effective_rank(torch.tensor([3.0, 3, 3, 0])).item() == pytest.approx(3)
    assert effective_rank(torch.tensor([1.0, 1, 0.5])).item() == pytest.approx(
        math.exp(-0.8 * math.log(0.4) - 0.2 * math.log(0.2))
    )
    assert effective_rank(torch.zeros(3)).item() == 1


def test_the_probe_finds_a_planted_rank(run: Run) -> None:
    model = build(replace(run.model, dropout=0.0)).eval()
    weight = model.get_parameter("encoder.0.sum.body.0.channel.weight")
    with torch.no_grad():
        weight.zero_()
        weight[0, 1] = weight[3, 2] = 2
        weight[5, 7] = -2
    found = probe(model, ["weight_rank"], Examples(model, run.data.dev))["weight_rank"]
    name = "encoder.0.sum.body.0.channel"
    assert found[f"{name}/rank"].item() == pytest.approx(3)
    assert found[f"{name}/values"].tolist() == pytest.approx([1, 1, 1, 0, 0, 0, 0, 0])
    ranks = {key: value for key, value in found.items() if key.endswith("/rank")}
    shares = [rank / len(found[key.replace("/rank", "/values")]) for key, rank in ranks.items()]
    assert found["rank"].item() == pytest.approx(float(sum(shares)) / len(shares))
    assert {"stem.body.0.channel/rank", "encoder.1.body.0.conv/rank"} < set(ranks)
