import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from speechkit_activations.analog import Analog, noise_sigma, quantize
from speechkit_activations.smooth import (
    GCU,
    SAU,
    GoLU,
    GSmeLU,
    ReluGelu,
    ReluSilu,
    SmeLU,
    Swish,
    mish,
)
from torch import Tensor, nn

from speechkit.ops.activation import activation_of
from speechkit.testing import assert_close


def slope(module: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None
    return x.grad


def test_paper_005_smelu_is_relu_outside_beta_exactly(line: Tensor) -> None:
    for beta in (0.25, 1.0, 2.0):
        y = SmeLU(1, beta)(line)
        outside = line.abs() >= beta
        assert torch.equal(y[outside], torch.relu(line)[outside])
        assert (y.diff() >= 0).all()


def test_paper_005_smelu_has_no_corner() -> None:
    for at in (-1.0, 1.0):
        left, right = slope(SmeLU(1), torch.tensor([at - 1e-7, at + 1e-7], dtype=torch.float64))
        assert abs(left - right) < 1e-6


def test_paper_005_smelu_is_the_box_average_of_relu(line: Tensor) -> None:
    beta, steps = 1.5, 20000
    offsets = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * 2 * beta - beta
    x = line[:, :, ::40]
    average = torch.relu(x[..., None] + offsets).mean(3)
    assert (SmeLU(1, beta)(x) - average).abs().max() < 1e-6


def test_paper_005_smelu_tends_to_relu(line: Tensor) -> None:
    assert (SmeLU(1, 1e-6)(line) - torch.relu(line)).abs().max() < 1e-6


@pytest.mark.parametrize("module", [SmeLU(3), SmeLU(3, 0.7, learn=True, per_channel=True)])
def test_paper_005_smelu_gradients(module: nn.Module) -> None:
    module = module.double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *module.parameters()))


def test_paper_005_smelu_learns_a_positive_beta() -> None:
    module = SmeLU(4, 0.5, learn=True, per_channel=True)
    assert_close("beta", torch.full((4,), 0.5), module.beta.detach(), 1e-6)  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(-50)
    assert (module.beta > 0).all()  # type: ignore[union-attr,operator]


def test_paper_005_gsmelu_is_smelu_where_its_lines_are_relus(line: Tensor) -> None:
    assert_close("gsmelu", SmeLU(1, 1.3)(line), GSmeLU(1, 1.3, 1.3)(line), 1e-12)


def test_paper_005_gsmelu_joins_its_lines_without_a_corner(line: Tensor) -> None:
    alpha, beta, low, high, t = 0.5, 1.5, -0.2, 0.9, 0.3
    module = GSmeLU(1, alpha, beta, low, high, t)
    y = module(line)
    left, right = line <= -alpha, line >= beta
    assert_close("left", (low * line + t)[left], y[left], 1e-12)
    lifted = high * line + t + (high - low) * (alpha - beta) / 2
    assert_close("right", lifted[right], y[right], 1e-12)
    for at in (-alpha, beta):
        before, after = slope(module, torch.tensor([at - 1e-7, at + 1e-7], dtype=torch.float64))
        assert abs(before - after) < 1e-6


def test_paper_009_golu_at_zero_and_its_minimum() -> None:
    golu = GoLU(1).double()
    zero = torch.zeros(1, dtype=torch.float64)
    assert golu(zero) == 0
    assert_close("slope", torch.tensor([math.exp(-1)], dtype=zero.dtype), slope(golu, zero), 1e-12)
    x = torch.linspace(-1, 0, 1_000_001, dtype=torch.float64)
    least = golu(x).argmin()
    assert golu(torch.linspace(-50, 50, 10_001, dtype=torch.float64)).min() > golu(x)[least]
    assert abs(golu(x)[least] + 0.0972601) < 1e-7
    assert abs(x[least] + 0.567145) < 2e-6


def test_paper_009_golu_has_finite_gradients_far_out() -> None:
    x = torch.linspace(-1000, 1000, 4001)
    assert torch.isfinite(slope(GoLU(1), x)).all()
    assert torch.isfinite(slope(GoLU(1, gamma=5.0), x)).all()
    naive = torch.tensor([-90.0], requires_grad=True)
    (naive * torch.exp(-torch.exp(-naive))).sum().backward()
    assert naive.grad is not None
    assert naive.grad.isnan().all(), "there would be nothing to hold"


def test_paper_009_golu_narrows_the_distribution_most() -> None:
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weight = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])

    def variance(y: Tensor) -> float:
        mean = (weight * y).sum()
        return float((weight * y * y).sum() - mean * mean)

    modules = GoLU(1), Swish(1), nn.ReLU(), nn.GELU(), nn.Mish()
    found = [variance(module(x)) for module in modules]
    expected = [0.2526, 0.3131, 0.3408, 0.3456, 0.3945]
    assert found == pytest.approx(expected, abs=1e-4)
    squares = [float((weight * module(x) ** 2).sum()) for module in (*modules, SmeLU(1))]
    assert squares[0] == pytest.approx(0.3196, abs=1e-4)
    gains = [square**-0.5 for square in squares]
    assert gains == pytest.approx([1.769, 1.677, 1.414, 1.534, 1.487, 1.380], abs=1e-3)


def test_paper_011_swish_from_half_linear_to_relu(line: Tensor) -> None:
    assert torch.equal(Swish(1, 0.0)(line), line / 2)
    grid = torch.linspace(-5, 5, 10001)
    # x / (1 + exp(200 x)) is at most 0.2785 / 200
    assert (Swish(1, 200.0)(grid) - torch.relu(grid)).abs().max() < 1.4e-3
    coarse = grid[::100]
    assert (Swish(1, 200.0)(coarse) - torch.relu(coarse)).abs().max() < 4e-7
    x = torch.linspace(-2, -1, 1_000_001, dtype=torch.float64)
    least = Swish(1)(x).argmin()
    assert abs(Swish(1)(x)[least] + 0.2784645) < 1e-7
    assert abs(x[least] + 1.2784645) < 2e-6


def test_paper_011_swish_gradients() -> None:
    module = Swish(3, 1.3, learn=True, per_channel=True).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, module.beta))


def test_paper_026_sau_is_the_convolution_with_a_gaussian() -> None:
    alpha, sigma = 0.2, 0.7
    module = SAU(1, alpha, sigma, learn=False)
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(200))
    for x in (-2.0, -0.3, 0.0, 0.4, 3.0):
        smoothed = 0.0
        # on each side of the corner the integrand is smooth
        for low, high in ((-12.0, -x / sigma), (-x / sigma, 12.0)):
            z = (high - low) / 2 * nodes + (high + low) / 2
            density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            values = F.leaky_relu(x + sigma * z, alpha) * density
            smoothed += float((weights * values).sum()) * (high - low) / 2
        assert abs(module(torch.tensor(x, dtype=torch.float64)).item() - smoothed) < 1e-10


def test_paper_026_sau_limits(line: Tensor) -> None:
    sharp = SAU(1, 0.15, 1e-6, learn=False)(line)
    assert (sharp - F.leaky_relu(line, 0.15)).abs().max() < 1e-6
    assert_close("alpha=1", line, SAU(1, 1.0, learn=False)(line), 1e-12)
    assert SAU(1, 0.15, 0.3, learn=False)(torch.zeros(1)).item() == pytest.approx(0.1017303)


def test_paper_026_sau_is_smooth() -> None:
    module = SAU(3, per_channel=True).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, module.alpha))
    assert torch.autograd.gradgradcheck(module, (x,))


def test_paper_039_gcu_is_x_cos_x(line: Tensor) -> None:
    assert torch.equal(GCU(1)(line), line * line.cos())


def test_paper_064_between_relu_and_gelu(line: Tensor) -> None:
    assert torch.equal(ReluGelu(1, 0.0)(line), torch.relu(line))
    assert torch.equal(ReluGelu(1, 0.0, a=0.1)(line), F.leaky_relu(line, 0.1))
    assert_close("gelu", F.gelu(line), ReluGelu(1)(line), 1e-12)
    assert (ReluGelu(1, scale=1e6)(line) - torch.relu(line)).abs().max() < 1e-6
    assert torch.equal(ReluSilu(1, 0.0)(line), torch.relu(line))
    assert_close("silu", F.silu(line), ReluSilu(1)(line), 1e-12)


def test_paper_064_gradient_is_the_formula() -> None:
    lam, scale = 0.4, 1.3
    x = torch.linspace(-3, 3, 100, dtype=torch.float64)
    z = scale * x
    inside = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    bell = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    expected = (1 - lam) * (x > 0).double() + lam * (inside + z * bell)
    assert_close("gradient", expected, slope(ReluGelu(1, lam, scale), x), 1e-12)
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ReluGelu(1, lam, scale), (x,))


@pytest.mark.parametrize(
    ("bits", "leakage", "sigma"), [(4, 0.5, 0.0494), (2, 0.8, 0.658), (6, 0.2, 0.00619)]
)
def test_paper_064_noise_has_the_given_leakage(bits: int, leakage: float, sigma: float) -> None:
    assert noise_sigma(bits, leakage) == pytest.approx(sigma, rel=2e-3)
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, generator=chance) * noise_sigma(bits, leakage)
    half_level = 0.5 / (2**bits - 1)
    assert (noise.abs() > half_level).double().mean().item() == pytest.approx(leakage, abs=5e-3)


def test_paper_064_precision_is_idempotent_and_passes_gradients() -> None:
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64, requires_grad=True)
    y = quantize(x, 3)
    assert_close("twice", y.detach(), quantize(y.detach(), 3), 1e-12)
    assert (y - x).abs().max() <= 0.5 / 7 + 1e-9
    assert len(torch.unique(y.detach().mul(7).round())) == 15
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_paper_064_noise_disturbs_the_gradient_of_relu_most() -> None:
    chance = torch.Generator().manual_seed(0)
    x = (torch.rand(20_000, generator=chance, dtype=torch.float64) - 0.5) / 10
    noisy = x + 0.01 * torch.randn(20_000, generator=chance, dtype=torch.float64)

    def disturbance(module: nn.Module) -> Tensor:
        return (slope(module, noisy) - slope(module, x)).abs().mean()

    assert disturbance(ReluGelu(1, 0.0)) > 8 * disturbance(ReluGelu(1, 1.0))


def test_paper_064_analog_hardware_is_noisy_in_evaluation_too() -> None:
    x = torch.linspace(-2, 2, 50)[None, None]
    always, training = Analog(1).eval(), Analog(1, noisy="training").eval()
    assert not torch.equal(always(x), always(x))
    assert torch.equal(training(x), training(x))
    assert training(x).mul(15).frac().abs().max() < 1e-5
    assert training(x).abs().max() <= 1


def test_paper_079_mish_minimum_slope_and_tails() -> None:
    x = torch.linspace(-2, 0, 2_000_001, dtype=torch.float64)
    y = mish(1)(x)
    assert abs(x[y.argmin()] + 1.19243) < 1e-4
    assert abs(y.min() + 0.308843) < 1e-4
    x = torch.linspace(-5, 5, 201, dtype=torch.float64)
    e = torch.exp(x)
    w = 4 * (x + 1) + 4 * e**2 + e**3 + e * (4 * x + 6)
    assert_close("slope", e * w / (2 * e + e**2 + 2) ** 2, slope(mish(1), x), 1e-12)
    assert slope(mish(1), torch.zeros(1)).item() == pytest.approx(0.6)
    assert mish(1)(torch.tensor(20.0)).item() == pytest.approx(20)
    assert mish(1)(torch.tensor(-20.0)).item() == pytest.approx(-4e-8, rel=0.1)
    for dtype in (torch.float16, torch.float32):
        far = torch.tensor([-1e4, 1e4], dtype=dtype)
        assert torch.isfinite(mish(1)(far)).all()
    assert torch.autograd.gradcheck(mish(1), (x[::10].clone().requires_grad_(),))


@pytest.mark.parametrize(
    "module",
    [
        *(SmeLU(2, 0.5), SmeLU(2, learn=True, per_channel=True), GSmeLU(2, 0.5, 1.0, 0.1)),
        *(Swish(2, 1.5), Swish(2, learn=True, per_channel=True), SAU(2, per_channel=True)),
        *(ReluGelu(2, 0.3, 1.2, 1.5), GoLU(2), GCU(2), ReluSilu(2, 0.4), mish(2)),
    ],
)
def test_fused_ops_take_them_in(module: nn.Module, line: Tensor) -> None:
    module.double()
    x = line.expand(1, 2, -1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.rand(parameter.shape, generator=torch.Generator().manual_seed(4))
        found = activation_of(module)
        assert found is not None
        assert_close("expression", module(x), found(x), 1e-12)
