import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from speechkit_activations import survey
from speechkit_activations.learned import PReLU
from speechkit_activations.smooth import Swish, mish
from torch import Tensor, nn

from speechkit.testing import assert_close

INFINITY = math.inf

# name: what makes it, range, monotone, continuous slope, f(0)
PROPERTIES: dict[str, tuple[Callable[[], nn.Module], tuple[float, float], bool, bool, float]] = {
    "sigmoid": (lambda: survey.sigmoid(1), (0, 1), True, True, 0.5),
    "tanh": (lambda: survey.tanh(1), (-1, 1), True, True, 0),
    "elliott": (lambda: survey.Elliott(1), (0, 1), True, True, 0.5),
    "relu": (nn.ReLU, (0, INFINITY), True, False, 0),
    "lrelu": (lambda: survey.lrelu(1), (-INFINITY, INFINITY), True, False, 0),
    "prelu": (lambda: PReLU(1), (-INFINITY, INFINITY), True, False, 0),
    "elu": (lambda: survey.elu(1), (-1, INFINITY), True, True, 0),
    "selu": (lambda: survey.selu(1), (-1.7581, INFINITY), True, False, 0),
    "gelu": (nn.GELU, (-0.17, INFINITY), False, True, 0),
    "celu": (lambda: survey.celu(1, 2.0), (-2, INFINITY), True, True, 0),
    "softplus": (lambda: survey.softplus(1), (0, INFINITY), True, True, math.log(2)),
    "swish": (lambda: Swish(1, 0.25), (-1.1139, INFINITY), False, True, 0),
    "lisht": (lambda: survey.LiSHT(1), (0, INFINITY), False, True, 0),
    "srs": (lambda: survey.SRS(1), (-3.0 / 1.81, 5.6), False, True, 0),
    "mish": (lambda: mish(1), (-0.30885, INFINITY), False, True, 0),
    "pau": (lambda: survey.PAU(1), (-INFINITY, INFINITY), False, False, 0.02979246),
    "pdelu": (lambda: survey.PDELU(1), (-1, INFINITY), True, True, 0),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_paper_024_properties(name: str) -> None:
    make, (low, high), monotone, smooth, at_zero = PROPERTIES[name]
    module = make().double()
    x = torch.linspace(-50, 50, 100_001, dtype=torch.float64)
    given = x.clone()
    with torch.no_grad():
        y = module(x[None, None])[0, 0]
        assert torch.equal(x, given), "it writes into its input"
        assert y[50_000].item() == pytest.approx(at_zero, abs=1e-9)
        assert y.min() >= low - 1e-4
        assert y.max() <= high + 1e-4
        assert bool((y.diff() >= -1e-12).all()) == monotone
    if name == "pau":  # its denominator has kinks of its own
        return
    numeric = (y[2:] - y[:-2]) / (x[2:] - x[:-2])
    x.requires_grad_()
    module(x[None, None]).sum().backward()
    assert x.grad is not None
    away = (x[1:-1].abs() > 2e-3).nonzero()[:, 0]
    assert (numeric[away] - x.grad[1:-1][away]).abs().max() < 1e-3
    assert bool(x.grad.diff().abs().max() < 5e-3) == smooth


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("sigmoid", 0, 1),
        ("tanh", -1, 1),
        ("elliott", 0, 1),
        ("relu", 0, INFINITY),
        ("lrelu", -INFINITY, INFINITY),
        ("prelu", -INFINITY, INFINITY),
        ("gelu", 0, INFINITY),
        ("pau", -INFINITY, INFINITY),
        ("elu", -1, INFINITY),
        ("selu", -1.0507 * 1.67326, INFINITY),
        ("celu", -2, INFINITY),
        ("softplus", 0, INFINITY),
        ("swish", 0, INFINITY),
        ("lisht", INFINITY, INFINITY),
        ("srs", 0, 5),
        ("mish", 0, INFINITY),
        ("pdelu", -1, INFINITY),
    ],
)
def test_paper_024_limits(name: str, left: float, right: float) -> None:
    module = PROPERTIES[name][0]().double()
    y = module(torch.tensor([[[-1e5, 1e5]]], dtype=torch.float64))[0, 0].tolist()
    for value, limit in zip(y, (left, right), strict=True):
        if math.isinf(limit):
            assert math.copysign(1, limit) * value > 900
        else:
            assert value == pytest.approx(limit, abs=1e-3)


def test_paper_024_formulas(line: Tensor) -> None:
    x = line
    for module, expected in (
        (survey.Elliott(1), 0.5 * x / (1 + x.abs()) + 0.5),
        (survey.LiSHT(1), x * torch.tanh(x)),
        (survey.SRS(1, 4.0, 3.0).double(), x / (x / 4 + torch.exp(-x / 3))),
        (survey.softplus(1, 2.0), torch.log1p(torch.exp(2 * x)) / 2),
    ):
        assert_close(type(module).__name__, expected, module(x).detach(), 1e-6)


def test_paper_024_srs_has_no_pole_while_it_learns() -> None:
    module = survey.SRS(3)
    assert sum(p.numel() for p in module.parameters()) == 6
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(-4)
    x = torch.linspace(-100, 100, 20_001).expand(1, 3, -1).requires_grad_()
    y = module(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(gradient).all()
    with pytest.raises(ValueError, match=r"give a above b / e = 1\.03"):
        survey.SRS(1, a=1.0, b=2.8)
    survey.SRS(1, a=1.0, b=2.7)


def test_paper_024_pdelu_stays_at_its_floor(line: Tensor) -> None:
    far = torch.tensor([[[-9.0, -10.0, -11.0, -30.0, -1e4]]])
    y = survey.PDELU(1)(far).detach()
    assert_close("floor", torch.full_like(y, -1), y, 1e-6)
    near = survey.PDELU(1, t=0.999).double()(line)
    assert (near - F.elu(line)).abs().max() < 1e-3, "t → 1 is ELU"


def test_paper_024_pau_begins_near_a_leaky_relu() -> None:
    x = torch.linspace(-3, 3, 601)
    assert (survey.PAU(1)(x) - F.leaky_relu(x, 0.01)).abs().max() < 0.07


@pytest.mark.parametrize("module", [survey.SRS(3), survey.PAU(3), survey.PDELU(3)])
def test_paper_024_gradients_of_what_is_learned(module: nn.Module) -> None:
    module = module.double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x + 0.05 * x.sign()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *module.parameters()))
