"""Initial weights: their bounds, what they leave alone, and the generator they draw from."""

import copy
import math

import pytest
import torch
from torch import Generator, nn

from speechkit.models.inits import Init, kaiming_uniform, xavier_uniform


class Zero(nn.Module):
    """A layer and a weight that start at zero, and a layer that does not."""

    self_initialized = ("out", "weight", "bias")

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 4, bias=False), nn.Sequential(nn.Linear(4, 4))
        nn.init.zeros_(self.out[0].weight)
        self.weight, self.bias = nn.Parameter(torch.zeros(4, 4)), None


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(8, 16, 5), nn.BatchNorm1d(16)
        self.linear = nn.Linear(16, 300)
        self.knots = nn.Parameter(torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("init", "convolution", "linear"),
    [
        (xavier_uniform(), math.sqrt(6 / (8 * 5 + 16 * 5)), math.sqrt(6 / (16 + 300))),
        (xavier_uniform(gain=2.0), 2 * math.sqrt(6 / 120), 2 * math.sqrt(6 / 316)),
        (kaiming_uniform(), math.sqrt(6 / 40), math.sqrt(6 / 16)),
    ],
)
def test_weights_fill_their_bounds(init: Init, convolution: float, linear: float) -> None:
    model = Network()
    init(model, Generator().manual_seed(0))
    for weight, bound in ((model.conv.weight, convolution), (model.linear.weight, linear)):
        assert 0.98 * bound < weight.abs().max().item() <= bound
        assert weight.mean().abs() < 0.1 * bound


@pytest.mark.parametrize("init", [xavier_uniform(), kaiming_uniform()])
def test_everything_else_stays(init: Init) -> None:
    model = Network()
    before = copy.deepcopy(model.state_dict())
    init(model, Generator().manual_seed(0))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"conv.weight", "linear.weight"}


@pytest.mark.parametrize("init", [xavier_uniform(), kaiming_uniform()])
def test_the_generator_alone_decides(init: Init) -> None:
    one, two = Network(), Network()
    init(one, Generator().manual_seed(3))
    state = torch.get_rng_state()
    init(two, Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.conv.weight, two.conv.weight)
    init(two, Generator().manual_seed(4))
    assert not torch.equal(one.conv.weight, two.conv.weight)


@pytest.mark.parametrize("init", [xavier_uniform(), kaiming_uniform()])
def test_what_a_layer_initializes_itself_stays(init: Init) -> None:
    model = nn.Sequential(Zero(), nn.Linear(4, 4))
    before = copy.deepcopy(model.state_dict())
    init(model, Generator().manual_seed(0))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"0.into.weight", "1.weight"}
