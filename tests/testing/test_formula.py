"""Formulas of components are computed in the language that kernels compile."""

import pytest
import torch

from speechkit.errors import ComponentError
from speechkit.ops.expressions import FUNCTIONS
from speechkit.testing.formula import FUNCTIONS as OURS
from speechkit.testing.formula import evaluate

X = torch.linspace(-3, 3, 13, dtype=torch.float64)


def test_every_function_is_known() -> None:
    assert set(OURS) == set(FUNCTIONS)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("max(x, 0)", X.relu()),
        ("x * sigmoid(0.5 * x)", X * torch.sigmoid(0.5 * X)),
        ("where(x < -0.5, -1, x / 2)", torch.where(X < -0.5, -1.0, X / 2)),
        ("exp(-abs(x)) + 1", torch.exp(-X.abs()) + 1),
        ("sqrt(4)", torch.full_like(X, 2)),
        ("0.5 * x * (1 + erf(x / sqrt(2)))", torch.nn.functional.gelu(X)),
    ],
)
def test_values(formula: str, expected: torch.Tensor) -> None:
    torch.testing.assert_close(evaluate(formula, X), expected)


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("gamma * x", "'gamma' is not x or a number"),
        ("x.__class__", "Attribute has no place in it"),
        ("(lambda: x)()", "there is no lambda: x"),
        ("x if x else 0", "IfExp has no place in it"),
        ("tanh(", "was never closed"),
    ],
)
def test_what_is_no_formula_is_refused(formula: str, says: str) -> None:
    with pytest.raises(ComponentError, match=says):
        evaluate(formula, X)
