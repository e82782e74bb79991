"""NovoGrad against its formula on plain numbers, and on a small problem."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechkit.train.optim import NovoGrad, adamw, novograd, parameter_groups


def run(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradients: list[Tensor]) -> None:
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()


def novograd_by_hand(
    w: list[float],
    gradients: list[list[float]],
    lr: float,
    b1: float,
    b2: float,
    wd: float,
    avg: bool,
) -> list[float]:
    m, v = [0.0] * len(w), 0.0
    for g in gradients:
        n = sum(x * x for x in g)
        v = n if v == 0 else b2 * v + (1 - b2) * n
        for i in range(len(w)):
            d = g[i] / (math.sqrt(v) + 1e-8) + wd * w[i]
            m[i] = b1 * m[i] + d * (1 - b1 if avg else 1)
            w[i] -= lr * m[i]
    return w


@pytest.mark.parametrize("averaging", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_novograd_follows_its_formula(averaging: bool, weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, dtype=torch.float64, generator=generator)
    gradients = [torch.randn(3, 2, dtype=torch.float64, generator=generator) for _ in range(5)]
    gradients.insert(0, torch.zeros_like(start))  # v must start at the first gradient that is not 0
    weight = nn.Parameter(start.clone())
    optimizer = NovoGrad(
        [weight], 0.1, (0.9, 0.5), weight_decay=weight_decay, grad_averaging=averaging
    )
    run(optimizer, weight, gradients)
    expected = novograd_by_hand(
        start.flatten().tolist(),
        [g.flatten().tolist() for g in gradients],
        0.1,
        0.9,
        0.5,
        weight_decay,
        averaging,
    )
    assert weight.flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_first_step_is_a_unit_gradient() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = NovoGrad([weight], lr=1.0)
    run(optimizer, weight, [torch.tensor([3.0, 4.0])])
    assert weight.tolist() == pytest.approx([-0.6, -0.8])
    state = optimizer.state[weight]
    assert set(state) == {"exp_avg", "exp_avg_sq"}
    assert state["exp_avg_sq"].shape == ()
    assert state["exp_avg_sq"].item() == 25.0


def test_gradients_are_left_alone_and_missing_ones_skipped() -> None:
    weight, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    gradient = torch.tensor([3.0, 4.0])
    run(NovoGrad([weight, idle], weight_decay=0.1), weight, [gradient])
    assert weight.grad is not None
    assert torch.equal(weight.grad, gradient)
    assert torch.equal(idle, torch.ones(2))


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(4, 3, generator=generator) for _ in range(6)]
    whole = nn.Parameter(torch.ones(4, 3))
    whole_optimizer = novograd([whole], lr=0.05, weight_decay=0.01)
    run(whole_optimizer, whole, gradients[:3])

    resumed = nn.Parameter(whole.detach().clone())
    resumed_optimizer = novograd([resumed], lr=1.0)
    resumed_optimizer.load_state_dict(copy.deepcopy(whole_optimizer.state_dict()))
    run(whole_optimizer, whole, gradients[3:])
    run(resumed_optimizer, resumed, gradients[3:])
    assert torch.equal(whole, resumed)


def test_novograd_solves_a_quadratic() -> None:
    target = torch.tensor([1.0, -2.0, 3.0])
    weight = nn.Parameter(torch.zeros(3))
    optimizer = NovoGrad([weight], lr=0.05, betas=(0.9, 0.98), grad_averaging=True)

    def loss() -> float:
        optimizer.zero_grad()
        value = ((weight - target) * torch.tensor([1.0, 2.0, 0.5])).square().sum()
        value.backward()
        return value.item()

    first = optimizer.step(loss)
    assert first == pytest.approx(1 + 16 + 2.25)
    for _ in range(400):
        optimizer.step(loss)
    assert loss() < 1e-3


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"eps": -1.0}, {"weight_decay": -1.0}, {"betas": (1.0, 0.5)}]
)
def test_impossible_numbers_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} .*: give "):
        NovoGrad([nn.Parameter(torch.zeros(1))], **wrong)


def test_betas_are_two_parameters() -> None:
    weight = nn.Parameter(torch.zeros(1))
    assert novograd([weight], beta1=0.8, beta2=0.5).defaults["betas"] == (0.8, 0.5)
    assert adamw([weight], beta1=0.8, beta2=0.5).defaults["betas"] == (0.8, 0.5)
    assert novograd([weight]).defaults == NovoGrad([weight]).defaults
    assert adamw([weight], weight_decay=0.2).defaults["weight_decay"] == 0.2


class Gated(nn.Module):
    """Two gains and a module that are kept out of weight decay, and a weight that is not."""

    undecayed = ("gain", "bias", "gates")

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.gain = nn.Parameter(torch.ones(2))
        self.bias = None
        self.gates = nn.ParameterDict({"a": torch.ones(1)})


@pytest.mark.parametrize("factory", [novograd, adamw])
def test_what_layers_keep_out_of_weight_decay_stays(factory: Any) -> None:
    model = nn.Sequential(Gated(), nn.Linear(2, 1))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = factory(parameter_groups(model), lr=0.1, weight_decay=0.5)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    same = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert same == {"0.gain", "0.gates.a"}


def test_a_model_without_such_layers_is_one_group() -> None:
    (group,) = parameter_groups(nn.Linear(2, 1))
    assert list(group) == ["params"]
