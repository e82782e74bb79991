"""Chebyshev polynomials, B-splines, bumps."""

import torch
from speechkit_kan.basis import b_splines, chebyshev, chebyshev_sum
from speechkit_kan.bspline import BSplineKAN
from speechkit_kan.relu_kan import ReluKAN

from speechkit.testing import assert_close

LINE = torch.linspace(-1, 1, 401, dtype=torch.float64)


def test_paper_065_polynomials_are_cosines() -> None:
    angle = torch.linspace(0, torch.pi, 101, dtype=torch.float64)
    terms = chebyshev(angle.cos(), 5)
    for n in range(6):
        assert_close(f"T_{n}", (n * angle).cos(), terms[:, n], 1e-12)


def test_paper_065_the_fewest_terms() -> None:
    assert chebyshev(LINE, 0).shape == (401, 1)
    assert torch.equal(chebyshev(LINE, 1), torch.stack([torch.ones_like(LINE), LINE], 1))


def test_paper_106_the_sum_without_its_terms() -> None:
    x = LINE.reshape(-1, 1).repeat(1, 3)
    coefficients = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).double()
    expected = (chebyshev(x, 5) * coefficients).sum(-1)
    assert_close("Clenshaw", expected, chebyshev_sum(x, coefficients), 1e-12)


def test_paper_106_gradients_are_finite_where_tanh_saturates() -> None:
    x = torch.tensor([-20.0, -1.0, 0.0, 20.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: chebyshev(x.tanh(), 4), (x,))
    single = torch.tensor([-20.0, 20.0], requires_grad=True)
    chebyshev(single.tanh(), 8).sum().backward()
    assert single.grad is not None
    assert torch.isfinite(single.grad).all()


def test_paper_070_splines_sum_to_one_inside_and_are_zero_outside() -> None:
    knots = BSplineKAN(1, 1, grid=5, order=3).double().knots
    inside = b_splines(LINE[:, None], knots, 3)
    assert inside.shape == (401, 1, 8)
    assert (inside >= 0).all()
    assert_close("sum", torch.ones(401, 1).double(), inside.sum(-1), 1e-6)
    outside = torch.tensor([[-2.3], [2.3], [100.0]], dtype=torch.float64)
    assert not b_splines(outside, knots, 3).any()


def test_splines_are_scipys() -> None:
    from scipy.interpolate import BSpline

    knots = torch.tensor([-3, -2, -1.1, -0.5, 0, 0.7, 1, 2, 3.5], dtype=torch.float64)
    theirs = BSpline.design_matrix(LINE[:300].numpy() * 0.5, knots.numpy(), 3).toarray()
    ours = b_splines(LINE[:300, None] * 0.5, knots[None], 3)[:, 0]
    assert_close("splines", torch.from_numpy(theirs), ours, 1e-12)


def test_knots_that_fall_together_are_harmless() -> None:
    knots = torch.tensor([[-2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0]])
    assert torch.isfinite(b_splines(torch.linspace(-2, 2, 101)[:, None], knots, 2)).all()


def test_paper_033_a_bump_is_one_at_its_peak_and_zero_outside() -> None:
    layer = ReluKAN(1, 1, grid=3, order=3).double()
    low, high = layer.low[0].detach(), layer.high[0].detach()
    for j in range(6):
        peak = layer.features((low[j] + high[j]).reshape(1, 1) / 2)[0, 0, j]
        assert_close(f"bump {j}", torch.ones(()).double(), peak.detach(), 1e-6)
        beyond = torch.stack([low[j] - 0.01, low[j], high[j], high[j] + 0.01])[:, None]
        assert not layer.features(beyond)[:, 0, j].any()
