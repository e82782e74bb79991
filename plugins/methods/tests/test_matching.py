"""The matching loss: its gradient, its values, and what it learns."""

import pytest
import torch
import torch.nn.functional as F
from speechkit_methods.elementwise import applied
from speechkit_methods.matching import Matching
from torch import Tensor

from speechkit.errors import ComponentError, TrainingError
from speechkit.plugins import registry


def scores(*shape: int) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    return 4 * torch.randn(shape, generator=chance, dtype=torch.float64)


def clips(loss: Matching, z: Tensor, targets: Tensor) -> Tensor:
    ones = torch.ones(len(z), dtype=torch.int64)
    return loss(z, ones, targets, ones)


def test_paper_047_with_sigmoid_it_is_the_binary_cross_entropy() -> None:
    z, targets = scores(20, 5), torch.arange(20) % 5
    expected = F.binary_cross_entropy_with_logits(
        z, F.one_hot(targets, 5).double(), reduction="none"
    )
    expected = (expected - torch.log(torch.tensor(2.0))).sum(1)
    found = clips(Matching("sigmoid"), z, targets)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_with_relu_the_integral_is_half_the_square() -> None:
    z = scores(50)
    torch.testing.assert_close(Matching("relu").integral(z), z.relu().square() / 2)
    torch.testing.assert_close(Matching("tanh").integral(z), z.cosh().log(), rtol=0, atol=1e-9)


def rising() -> list[str]:
    names = []
    for entry in registry().components("activation"):
        component = entry.component
        if (component.in_factor, component.time) == (1, "frame"):
            try:
                Matching(component.name)
            except ComponentError:
                continue
            names.append(component.name)
    return names


def test_paper_047_the_gradient_is_the_activation_less_the_target() -> None:
    names = rising()
    assert {"relu", "sigmoid", "tanh", "elu", "softplus"} <= set(names)
    targets = torch.arange(20) % 5
    for name in names:
        loss, z = Matching(name), scores(20, 5).requires_grad_()
        (found,) = torch.autograd.grad(clips(loss, z, targets).sum(), z)
        expected = applied(loss.activation, z.detach()) - F.one_hot(targets, 5)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7, msg=name)
        # and it is the slope of the value
        step = clips(loss, z.detach() + 1e-4, targets) - clips(loss, z.detach() - 1e-4, targets)
        torch.testing.assert_close(step / 2e-4, found.sum(1), rtol=1e-2, atol=1e-2, msg=name)


def neuron(wrong: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels relu(w·x) with a share of them set to −5, and w."""
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(400, 8, generator=chance, dtype=torch.float64)
    w = torch.randn(8, generator=chance, dtype=torch.float64)
    y = (x @ w).relu()
    y[: round(wrong * 400)] = -5
    return x, y, w


def learned(x: Tensor, y: Tensor, steps: int = 1000) -> Tensor:
    """Gradient descent from 0 on the mean of Φ(w·x) − y w·x."""
    loss, w = Matching("relu"), torch.zeros(8, dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        z = x @ w
        (slope,) = torch.autograd.grad((loss.integral(z) - y * z).mean(), w)
        w = (w - slope).detach().requires_grad_()
    return w.detach()


def test_paper_047_at_0_it_has_a_gradient_where_the_square_of_relu_has_none() -> None:
    x, y, _ = neuron()
    w = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    (square,) = torch.autograd.grad(((x @ w).relu() - y).square().mean(), w)
    z = x @ w
    (slope,) = torch.autograd.grad((Matching("relu").integral(z) - y * z).mean(), w)
    assert not square.any()
    assert float(slope.norm()) > 0.3


def test_paper_047_it_finds_a_neuron_of_relu() -> None:
    x, y, w = neuron()
    assert float((learned(x, y) - w).norm()) < 1e-6


def test_paper_047_wrong_labels_cost_little() -> None:
    x, y, w = neuron(wrong=0.05)
    error, least = (((x @ v).relu() - y).square().mean() for v in (learned(x, y), w))
    assert float(error) <= 1.05 * float(least)


def test_padding_and_frames_without_target_do_not_count() -> None:
    loss, z = Matching("relu"), scores(2, 6, 3)
    targets = torch.tensor([[0, 1, 2, 0, 1, 2], [0, -100, 2, 1, 1, 1]])
    lengths = torch.tensor([6, 3])
    z[1, 3:] = torch.nan
    found = loss(z, lengths, targets, lengths)
    frames = [clips(loss, z[1, [t]], targets[1, [t]]) for t in (0, 2)]
    torch.testing.assert_close(found[1], torch.cat(frames).mean())
    torch.testing.assert_close(found[0], clips(loss, z[0], targets[0]).mean())
    z.requires_grad_()
    (slope,) = torch.autograd.grad(loss(z, lengths, targets, lengths).sum(), z)
    assert not slope[1, [1, 3, 4, 5]].any()


def test_what_it_cannot_do_is_refused() -> None:
    for name in ("gelu", "gcu"):
        with pytest.raises(
            ComponentError, match=f"matching: {name} falls somewhere.* such as relu"
        ):
            Matching(name)
    for name, why in (("glu", "not elementwise"), ("analog", "random")):
        with pytest.raises(ComponentError, match=f"loss matching: {name} is {why}; give relu"):
            Matching(name)
    with pytest.raises(TrainingError, match="of 6 frames, targets of 2; give a model that classif"):
        Matching()(scores(1, 6, 3), torch.tensor([6]), torch.tensor([[0, 1]]), torch.tensor([2]))
