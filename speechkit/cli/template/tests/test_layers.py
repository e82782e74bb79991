"""The components compute their formulas."""

import torch
from speechkit_acme.layers import MeanAbs, Squareplus


def test_squareplus() -> None:
    x = torch.tensor([[[-1.5, 0.0, 1.5]]])
    y = Squareplus(1, b=4.0)(x)
    torch.testing.assert_close(y, torch.tensor([[[0.5, 1.0, 2.0]]]))


def test_mean_abs() -> None:
    x = torch.tensor([[[3.0], [-1.0]]])
    y = MeanAbs(2, eps=0.0)(x)
    torch.testing.assert_close(y, torch.tensor([[[1.5], [-0.5]]]))
