"""Expressions in torch: values, gradients, types, and modules that are made of one."""

import pytest
import torch
from torch import nn

from speechkit.errors import ComponentError
from speechkit.nn import Elementwise
from speechkit.ops.torch_expressions import _SCOPE, evaluate

X = torch.linspace(-3, 3, 13, dtype=torch.float64)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("max(x, 0)", X.relu()),
        ("x * sigmoid(0.5 * x)", X * torch.sigmoid(0.5 * X)),
        ("where(x < -0.5, -1, x / 2)", torch.where(X < -0.5, -1.0, X / 2)),
        ("exp(-abs(x)) + 1", torch.exp(-X.abs()) + 1),
        ("sqrt(4)", torch.full_like(X, 2)),
        ("where(x > pi / 3, 1, 0.1)", torch.where(X > 1.0472, 1.0, X * 0 + 0.1)),
        ("where(2 > 1, x, 1)", X),
        ("max(2, min(3, x)) + max(x, -x)", X.clamp(2, 3) + X.abs()),
        ("pow(abs(x), 1.5) + sign(x)", X.abs() ** 1.5 + X.sign()),
        ("0.5 * x * (1 + erf(x / sqrt(2)))", torch.nn.functional.gelu(X)),
    ],
)
def test_values(formula: str, expected: torch.Tensor) -> None:
    torch.testing.assert_close(evaluate(formula, X, {}), expected)


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
        evaluate(formula, X, {})


class Bent(Elementwise):
    expression = "where(x > 0, x, slope * x) + levels[1] * shift"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.linspace(0.1, 0.3, channels))
        self.levels = nn.Parameter(torch.arange(2.0 * channels).view(2, channels))
        self.shift = 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_module_of_its_expression(dtype: torch.dtype) -> None:
    module, x = Bent(3), torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = module(x)
    assert y.dtype == dtype
    slope, shift = module.slope.to(dtype)[:, None], 0.5 * module.levels[1].to(dtype)[:, None]
    torch.testing.assert_close(y, torch.where(x > 0, x, slope * x) + shift)
    y.sum().backward()
    assert module.slope.grad is not None
    assert module.levels.grad is not None
    assert module.levels.grad.tolist() == [[0, 0, 0], [7, 7, 7]]


def test_a_repeated_part_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    tanh = torch.tanh
    monkeypatch.setitem(_SCOPE, "tanh", lambda a: calls.append(1) or tanh(a))
    text = "tanh(2 * x) * where(tanh(2 * x) > 0, sqrt(abs(tanh(2 * x))), -tanh(2 * x)) + tanh(x)"
    y = X.mul(2).tanh()
    expected = y * torch.where(y > 0, y.abs().sqrt(), -y) + X.tanh()
    torch.testing.assert_close(evaluate(text, X, {}), expected)
    assert len(calls) == 2


def test_a_gate_halves_the_channels() -> None:
    module = Elementwise()
    module.expression = "silu(a) * b"
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x), nn.functional.silu(x[:, :3]) * x[:, 3:])


def test_nan_stays_nan() -> None:
    x = torch.tensor([[[torch.nan]]])
    for text in ("relu(x)", "sign(x)", "max(x, 1)", "min(1, x)", "pow(x, 2.5)", "round(x)"):
        assert evaluate(text, x, {}).isnan().all(), text


def test_it_can_be_compiled() -> None:
    module, x = Bent(3), torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(module, backend="eager")
    torch.testing.assert_close(compiled(x), module(x))
