"""The channel layers and the activation against their formulas."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from speechkit_kan.af_kan import ACTIVATIONS, AFKAN, FUNCTIONS, REDUCERS
from speechkit_kan.bspline import BSplineKAN
from speechkit_kan.cheby import ChebyKAN, Chebyshev
from speechkit_kan.edges import EdgeLayer
from speechkit_kan.relu_kan import ReluKAN
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, FrameWise, Pointwise, Serial, StreamLayer
from speechkit.testing import assert_close

EDGES = (BSplineKAN, ReluKAN, lambda i, o: ChebyKAN(i, o, norm="none"))


def frames(channels: int, count: int = 12, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, channels, generator=chance).double().transpose(1, 2)


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Tensor = layer(Chunk.of(x)).x
    return y


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("make", EDGES)
def test_an_output_is_the_sum_of_its_edges(make: type[EdgeLayer]) -> None:
    torch.manual_seed(0)
    layer, x = make(5, 4).double(), frames(5)
    edges = layer.edges(x.transpose(1, 2))
    assert edges.shape == (2, 12, 4, 5)
    assert_close("sum", edges.sum(-1).transpose(1, 2), run(layer, x), 1e-12)
    alone = layer.edges(x[:, :, :1].transpose(1, 2).clone())
    other = x.clone()
    other[:, 1:] = 7
    moved = layer.edges(other[:, :, :1].transpose(1, 2))
    assert torch.equal(alone[..., 0], moved[..., 0]), "an edge reads another input"


@pytest.mark.parametrize("make", EDGES)
def test_spread_is_the_deviation_of_each_edge(make: type[EdgeLayer]) -> None:
    torch.manual_seed(0)
    layer, x = make(5, 4).double(), frames(5, 50).transpose(1, 2).flatten(0, 1)
    assert_close("spread", layer.edges(x).std(0, correction=0), layer.spread(x), 1e-9)


@pytest.mark.parametrize("make", EDGES)
def test_pruned_edges_are_gone_and_stay_so(make: type[EdgeLayer]) -> None:
    torch.manual_seed(0)
    layer, x = make(5, 4).double(), frames(5)
    layer.kept[2] = False
    layer.kept[:, 3] = False
    y = run(layer, x)
    assert not y[:, 2].any()
    other = x.clone()
    other[:, 3] = 9
    assert torch.equal(run(layer, other), y)
    again = make(5, 4).double()
    again.load_state_dict(layer.state_dict())
    assert torch.equal(run(again, other), y)


def test_paper_070_without_coefficients_it_is_a_linear_layer_of_silu() -> None:
    layer, x = BSplineKAN(5, 4).double(), frames(5)
    nn.init.zeros_(layer.coefficients)
    expected = F.linear(F.silu(x.transpose(1, 2)), layer.base).transpose(1, 2)
    assert_close("base", expected, run(layer, x), 1e-12)


def test_paper_070_so_many_parameters() -> None:
    assert size(BSplineKAN(6, 4, grid=5, order=3, scaler=False)) == 4 * 6 * (5 + 3) + 4 * 6
    assert size(BSplineKAN(6, 4, grid=5, order=3)) == 4 * 6 * (5 + 3) + 4 * 6 + 4 * 6


def test_paper_106_of_degree_one_it_is_linear_in_tanh() -> None:
    layer, x = ChebyKAN(5, 4, degree=1, norm="none").double(), frames(5)
    nn.init.zeros_(layer.coefficients[:, :, 0])
    expected = F.linear(x.transpose(1, 2).tanh(), layer.coefficients[:, :, 1]).transpose(1, 2)
    assert_close("linear", expected, run(layer, x), 1e-12)


def test_paper_106_a_polynomial_of_tanh_is_met_exactly() -> None:
    x = torch.linspace(-2, 2, 40, dtype=torch.float64)
    t = x.tanh()
    wanted = 0.3 - t + 2 * t**3 - 0.7 * t**4
    layer = ChebyKAN(1, 1, degree=4, norm="none").double()
    with torch.no_grad():
        features = layer.features(x[:, None])[:, 0]
        fitted = torch.linalg.lstsq(features, wanted[:, None]).solution
        layer.coefficients.copy_(fitted.T[:, None])
        assert_close("polynomial", wanted, run(layer, x[None, None])[0, 0], 1e-12)


def test_paper_106_it_is_a_sum_of_products_with_layer_norm() -> None:
    layer, x = ChebyKAN(5, 4, degree=3).double(), frames(5)
    t = x.tanh()
    terms = [torch.ones_like(t), t, 2 * t**2 - 1, 4 * t**3 - 3 * t]
    summed = sum(
        F.linear(term.transpose(1, 2), layer.coefficients[:, :, n]) for n, term in enumerate(terms)
    )
    assert_close("ψ", F.layer_norm(summed, (4,)).transpose(1, 2), run(layer, x), 1e-12)


def test_paper_106_coefficients_start_within_xaviers_bound() -> None:
    bound = (6 / ((30 + 20) * 5)) ** 0.5
    largest = ChebyKAN(30, 20).coefficients.abs().max().item()
    assert 0.98 * bound < largest <= bound


def test_paper_106_the_activation_starts_as_tanh_and_learns() -> None:
    layer, x = Chebyshev(5).double(), frames(5)
    assert_close("tanh", x.tanh(), layer(x), 1e-12)
    nn.init.normal_(layer.coefficients)
    t = x.tanh().transpose(1, 2)
    c = layer.coefficients
    expected = c[:, 0] + c[:, 1] * t + c[:, 2] * (2 * t**2 - 1) + c[:, 3] * (4 * t**3 - 3 * t)
    expected = expected + c[:, 4] * (8 * t**4 - 8 * t**2 + 1)
    assert_close("polynomial", expected.transpose(1, 2), layer(x), 1e-12)


def test_paper_033_so_many_parameters() -> None:
    c_in, c_out, functions = 8, 32, 6
    count = c_in * c_out + 2 * functions + (functions + 1) + 2 * c_in + 1
    assert size(AFKAN(c_in, c_out)) == count
    assert size(AFKAN(c_in, c_out, norm="none")) == count - 2 * c_in
    assert size(ReluKAN(c_in, c_out)) == 2 * c_in * functions + c_in * c_out * functions


def test_paper_033_with_silu_a_function_is_larger_outside_its_bounds() -> None:
    """The README's 0.59 and 0.04."""
    layer = AFKAN(1, 1, norm="none", func_norm="none").double()
    at = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    y = layer.functions(at[:, None])[:, 0, 3]
    inside = (at >= layer.low[3]) & (at <= layer.high[3])
    assert round(y[inside].max().item(), 2) == 0.04
    assert round(y[~inside].max().item(), 2) == 0.59


@pytest.mark.parametrize("func", FUNCTIONS)
@pytest.mark.parametrize("reduce", REDUCERS)
@pytest.mark.parametrize("func_norm", ["frame", "none"])
def test_paper_033_rows_do_not_meet_and_gradients_are_true(
    func: str, reduce: str, func_norm: str
) -> None:
    torch.manual_seed(0)
    layer = AFKAN(4, 3, func=func, reduce=reduce, func_norm=func_norm).double()
    x = frames(4, 3)
    assert_close("row 0 alone", run(layer, x)[:1], run(layer, x[:1]), 1e-12)
    assert torch.autograd.gradcheck(lambda x: run(layer, x), (x.requires_grad_(),), fast_mode=True)


def test_paper_033_functions_of_a_frame_lie_between_zero_and_one() -> None:
    y = AFKAN(4, 3).double().functions(frames(4).transpose(1, 2)).flatten(2)
    assert_close("lowest", torch.zeros(2, 12).double() + 1, 1 + y.amin(2), 1e-12)
    assert_close("highest", torch.ones(2, 12).double(), y.amax(2), 1e-6)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_paper_033_any_of_its_activations(act: str) -> None:
    assert torch.isfinite(run(AFKAN(4, 3, act=act).double(), frames(4))).all()


def regression_loss(net: nn.Module) -> float:
    """What is left of 256 points of sin 3 x_1 + x_2 x_3 after 400 steps."""
    x = torch.rand(256, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted = (3 * x[:, 0]).sin() + x[:, 1] * x[:, 2]
    c = Chunk.of(x[None].transpose(1, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(400):
        loss = (net(c).x[0, 0] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize(("func_norm", "norm"), [*product(["none", "frame"], ["layer", "none"])])
def test_paper_033_it_learns_what_an_mlp_of_its_widths_does_not(func_norm: str, norm: str) -> None:
    torch.manual_seed(0)
    options = {"func_norm": func_norm, "norm": norm}
    net = Serial(AFKAN(8, 32, **options), AFKAN(32, 1, **options))
    assert regression_loss(net) < 0.05
    assert size(net) == (408 if norm == "layer" else 328)


def test_paper_033_the_mlp_of_its_widths() -> None:
    torch.manual_seed(0)
    net = Serial(Pointwise(8, 32), FrameWise(nn.SiLU()), Pointwise(32, 1))
    assert regression_loss(net) > 0.07


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AFKAN(1, 4), "norm='layer' of one channel is constant"),
        (lambda: ChebyKAN(4, 1), "norm='layer' of one channel is constant"),
        (lambda: AFKAN(4, 4, func="quad3"), "func='quad3': give one of quad1, quad2"),
        (lambda: AFKAN(4, 4, func_norm="batch"), "func_norm='batch': give one of frame, none"),
        (lambda: ChebyKAN(4, 4, squash="none"), "squash='none': give one of tanh, clip"),
        (lambda: BSplineKAN(4, 4, grid=0), "grid=0: give at least 1"),
        (lambda: Chebyshev(4, degree=0), "degree=0: give at least 1"),
    ],
)
def test_a_wrong_parameter_is_named(make: type, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        make()
