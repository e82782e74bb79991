from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from speechkit_activations.backward import (
    GELU_BOUNDS,
    GELU_SLOPES,
    SILU_BOUNDS,
    SILU_SLOPES,
    HeLU,
    ReGELU2,
    ReSiLU2,
    pack_codes,
    unpack_codes,
)
from speechkit_activations.stochastic import Stochastic
from torch import Tensor, nn

import speechkit as sk
from speechkit.models import Block, MatchboxNet
from speechkit.nn import BatchNorm, Chunk, as_layer
from speechkit.nn.fused_serial import FusedSerial
from speechkit.testing import assert_close


def gradient(module: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None
    return x.grad


def test_paper_018_helu_learns_a_little_below_zero(line: Tensor) -> None:
    assert torch.equal(HeLU(1)(line), torch.relu(line))
    z = torch.tensor([-1.0, -0.06, -0.05, -0.04, 0.0, 0.3])
    assert gradient(HeLU(1), z).tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(gradient(HeLU(1, 0.0), z), gradient(nn.ReLU(), z))
    assert gradient(HeLU(1, torch.inf), z).eq(1).all()
    assert torch.equal(gradient(HeLU(1).eval(), z), gradient(nn.ReLU(), z))


def test_paper_018_helu_is_biased_by_design() -> None:
    x = torch.tensor([-0.02], dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(HeLU(1), (x,))


@pytest.mark.parametrize(("activation", "alive"), [(HeLU(1), True), (nn.ReLU(), False)])
def test_paper_018_a_dead_unit_recovers_under_helu_alone(
    activation: nn.Module, alive: bool
) -> None:
    chance = torch.Generator().manual_seed(0)
    x = torch.rand(100, generator=chance)
    bias = torch.tensor(-0.025, requires_grad=True)
    weight = torch.tensor(0.0, requires_grad=True)
    optimizer = torch.optim.SGD([bias, weight], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (activation(weight * x + bias) - (x + 0.5)).square().mean().backward()
        optimizer.step()
    assert bool((weight * x + bias > 0).any()) is alive


def test_paper_018_training_does_not_join_helu_with_the_norm_as_relu() -> None:
    net = FusedSerial(norm=BatchNorm(3), activation=as_layer(HeLU(3, alpha=10.0))).train()
    x = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(1))
    (net(Chunk.of(x)).x * weights).sum().backward()
    bias = net[0].bias.grad  # type: ignore[attr-defined]
    assert_close("every frame counts", weights.sum((0, 2)), bias, 1e-5)


@pytest.mark.parametrize(
    ("module", "function", "slopes"),
    [(ReGELU2(1), F.gelu, (-0.04922, 1.04874)), (ReSiLU2(1), F.silu, (-0.0406, 1.04032))],
)
def test_paper_115_exact_forward_and_four_slopes_backward(
    module: nn.Module, function: object, slopes: tuple[float, float], line: Tensor
) -> None:
    wide = 2 * line
    assert torch.equal(module(wide), function(wide))  # type: ignore[operator]
    found = torch.unique(gradient(module, wide)).tolist()
    assert found == pytest.approx([slopes[0], 0.0, 1.0, slopes[1]], abs=1e-5)
    assert torch.equal(module.eval()(wide), function(wide))  # type: ignore[operator]
    module.train()


@pytest.mark.parametrize("module", [ReGELU2(8), ReSiLU2(8)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_paper_115_two_bits_are_saved_of_each_value(module: nn.Module, dtype: torch.dtype) -> None:
    x = torch.randn(3, 40, 8, dtype=dtype).transpose(1, 2).requires_grad_()
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = module(x)
    assert sum(t.numel() * t.element_size() for t in saved) == x.numel() / 4
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


@pytest.mark.parametrize(
    ("function", "slopes", "bounds", "square", "of_relu", "largest"),
    [
        (F.gelu, GELU_SLOPES, GELU_BOUNDS, 0.0095, 0.0618, 0.156),
        (F.silu, SILU_SLOPES, SILU_BOUNDS, 0.0399, 0.3163, 0.256),
    ],
)
def test_paper_115_the_three_relus_lie_near_the_function(
    function: object,
    slopes: tuple[float, ...],
    bounds: tuple[float, ...],
    square: float,
    of_relu: float,
    largest: float,
) -> None:
    x = torch.linspace(-40, 40, 800_001, dtype=torch.float64)
    near = sum(a * torch.relu(x - c) for a, c in zip(slopes, bounds, strict=True))
    off, plain = near - function(x), torch.relu(x) - function(x)  # type: ignore[operator]
    assert sum(slopes) == pytest.approx(1)
    for difference, expected in ((off, square), (plain, of_relu)):
        found = float(difference.square().sum() * (x[1] - x[0]))
        assert found == pytest.approx(expected, abs=1e-4)
    assert float(off.abs().max()) == pytest.approx(largest, abs=2e-3)


def test_paper_115_the_slope_of_each_value_is_its_own() -> None:
    x = torch.tensor([[[-4.0, -1.0, 1.0, 4.0, -4.0], [1.0, 4.0, -1.0, -4.0, 1.0]]])
    found = gradient(ReGELU2(2), x)
    first, second = -0.0492226, 1.0487406
    expected = [[0.0, first, second, 1.0, 0.0], [second, 1.0, first, 0.0, second]]
    assert_close("gradient", torch.tensor([expected]), found, 1e-5)


@pytest.mark.parametrize("count", [1, 3, 4, 21])
def test_paper_115_codes_come_back(count: int) -> None:
    codes = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(0)).byte()
    packed = pack_codes(codes)
    assert len(packed) == -(-count // 4)
    assert torch.equal(unpack_codes(packed, codes.shape), codes)


# torch's compiler warns of what it does itself
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("module", [HeLU(4), ReGELU2(4), ReSiLU2(4)])
def test_they_compile_without_a_break(module: nn.Module) -> None:
    x = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.equal(gradient(compiled, x), gradient(module, x))  # type: ignore[arg-type]


def test_paper_028_from_relu_to_silu(line: Tensor) -> None:
    assert torch.equal(Stochastic(1, p=0.0)(line), torch.relu(line))
    below = line < 0
    y = Stochastic(1, p=1.0)(line)
    assert torch.equal(y[below], F.silu(line)[below])
    assert torch.equal(y[~below], line[~below])
    assert torch.equal(Stochastic(1, p=1.0, positive="silu")(line), F.silu(line))


def test_paper_028_its_mean_is_the_share_of_silu() -> None:
    p, x, draws = 0.3, -1.2, 100_000
    torch.manual_seed(0)
    y = Stochastic(1, p=p)(torch.full((1, 1, draws), x))
    silu = F.silu(torch.tensor(x)).item()
    deviation = abs(silu) * (p * (1 - p) / draws) ** 0.5
    assert abs(y.mean().item() - p * silu) < 4 * deviation
    expected = Stochastic(1, p=p, eval_mode="expected").eval()(torch.full((1, 1, 1), x))
    assert expected.item() == pytest.approx(p * silu)


def test_paper_028_the_seed_decides_and_evaluation_draws_nothing(line: Tensor) -> None:
    module = Stochastic(1)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(module(line))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(module.eval()(line), torch.relu(line))
    sampling = Stochastic(1, eval_mode="sample").eval()
    assert not torch.equal(sampling(line), sampling(line))


def test_paper_028_gradient_flows_below_zero_where_it_is_drawn() -> None:
    x = torch.full((1, 1, 200), -0.5, requires_grad=True)
    y = Stochastic(1)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, y.detach() != 0)
    assert 50 < int((y != 0).sum()) < 150


def test_paper_028_training_ends_in_relu(line: Tensor) -> None:
    module = Stochastic(1, p=1.0, steps=20, switch_at=0.9)
    for call in range(20):
        relu = torch.equal(module(line), torch.relu(line))
        assert relu == (call >= 18)
    restored = Stochastic(1, p=1.0, steps=20, switch_at=0.9)
    restored.load_state_dict(module.state_dict())
    assert torch.equal(restored(line), torch.relu(line)), "the schedule goes on"


def test_paper_028_a_folder_keeps_p_and_the_schedule(tmp_path: Path) -> None:
    blocks = Block(channels=4, kernel=3, stride=2), Block(channels=4, kernel=1, separable=False)
    activation = "stochastic:p=0.7,steps=20,switch_at=0.9"
    model = sk.build(MatchboxNet(labels=("a", "b"), blocks=blocks, activation=activation))
    for _ in range(3):
        model.train()(0.1 * torch.randn(1, 4000))
    sk.save(model, tmp_path / "model")
    found = [m for m in sk.load(tmp_path / "model").modules() if isinstance(m, Stochastic)]
    assert [(m.p, m.switch, int(m.calls)) for m in found] == [(0.7, 18, 3)] * 2


def test_paper_028_a_sample_is_not_exported_in_silence() -> None:
    module = Stochastic(2, eval_mode="sample").eval()
    with pytest.warns(UserWarning, match="is exported with its random draws"):
        torch.export.export(module, (torch.randn(1, 2, 5),))
