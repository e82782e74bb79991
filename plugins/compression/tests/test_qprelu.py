"""Slopes of powers of two."""

import pytest
import torch
from speechkit_compression.qprelu import QPReLU


def test_it_starts_with_a_slope_of_an_eighth() -> None:
    x = torch.tensor([[[-8.0, -1.0, 0.0, 2.0]]])
    assert QPReLU(1)(x).tolist() == [[[-1.0, -0.125, 0.0, 2.0]]]
    assert QPReLU(1, log2=1.4)(x).tolist() == [[[-16.0, -2.0, 0.0, 2.0]]]


def test_paper_054_slopes_are_powers_of_two_after_training() -> None:
    layer = QPReLU(64)
    generator = torch.Generator().manual_seed(0)
    wanted = torch.rand(64, 1, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(60):
        x = torch.randn(8, 64, 20, generator=generator)
        loss = (layer(x) - torch.where(x >= 0, x, wanted * x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mantissa, _ = torch.frexp(layer.slope.detach())
    assert (mantissa == 0.5).all()
    assert len(layer.slope.unique()) >= 4
    # the nearest power of two, or its neighbour
    ratio = (layer.slope.detach() / wanted[:, 0]).log2().abs()
    assert ratio.median() < 0.6


@pytest.mark.parametrize("level", [-12, -3, 0, 5])
def test_a_power_is_exact_and_rounding_has_a_gradient_of_1(level: int) -> None:
    layer = QPReLU(32, log2=level + 0.3)
    assert (layer.slope == 2.0**level).all()
    layer.slope.sum().backward()
    expected = torch.full((32,), 2.0**level) * torch.tensor(2.0).log()
    torch.testing.assert_close(layer.log2.grad, expected)
