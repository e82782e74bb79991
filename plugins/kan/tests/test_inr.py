"""A waveform as a net: the learned activation reaches frequencies that ReLU does not."""

import math

import pytest
import torch
from speechkit_kan.inr import SL2A
from torch import Tensor, nn


def gap_db(samples: int, cycles: tuple[int, ...], degree: int, width: int, steps: int) -> float:
    """How many decibels closer SL2A comes to a sum of sines than a ReLU net of its size."""
    times = torch.linspace(-1, 1, samples)
    wanted = torch.stack([(math.pi * k * times).sin() for k in cycles]).mean(0)
    torch.manual_seed(0)
    ours = SL2A(width, 3, degree, width // 2)
    size = sum(parameter.numel() for parameter in ours.parameters())
    # three square layers of so many parameters
    wide = round(math.sqrt(size / 3))
    layers = [m for _ in range(3) for m in (nn.Linear(wide, wide), nn.ReLU())]
    theirs = nn.Sequential(nn.Linear(1, wide), nn.ReLU(), *layers, nn.Linear(wide, 1))
    return learn(ours, times, wanted, steps) - learn(theirs, times[:, None], wanted, steps)


def learn(net: nn.Module, times: Tensor, wanted: Tensor, steps: int) -> float:
    """The signal-to-noise ratio in decibels after so many steps with all samples."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = (net(times).flatten() - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return 10 * math.log10(wanted.square().mean() / loss.item())


def test_paper_106_a_short_wave_is_closer_than_relus() -> None:
    assert gap_db(500, (5, 12, 21), degree=48, width=32, steps=120) > 10


@pytest.mark.slow
def test_paper_106_a_wave_is_20_db_closer_than_relus() -> None:
    assert gap_db(4000, (37, 100, 173), degree=256, width=128, steps=250) > 20


def test_the_papers_size_has_finite_gradients() -> None:
    net = SL2A(hidden=16, layers=3, degree=256, rank=8)
    net(torch.tensor([-1.0, 0.0, 1.0])).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
