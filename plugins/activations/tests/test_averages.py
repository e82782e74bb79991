import math

import pytest
import torch
from speechkit_activations.averages import (
    ABReLU,
    HalfLinear,
    LinearDC,
    RunningABReLU,
    RunningLinearDC,
)
from speechkit_activations.smooth import GCU
from speechkit_activations.spectrum import harmonics
from torch import Tensor, nn

from speechkit.errors import StreamError
from speechkit.nn import Chunk
from speechkit.testing import assert_close


def ragged() -> Chunk:
    x = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Chunk.of(x, torch.tensor([20, 11, 1]))


def relu_even(order: int, amplitude: float) -> float:
    """The amplitude of harmonic `order` of ReLU(A cos), order even and above 0."""
    return 2 * amplitude / (math.pi * (order**2 - 1))


@pytest.mark.parametrize("amplitude", [1.0, 1.7])
def test_paper_046_relu_makes_a_constant_and_even_harmonics(amplitude: float) -> None:
    found = harmonics(nn.ReLU(), amplitude, count=8)
    expected = [amplitude / math.pi, amplitude / 2]
    expected += [0 if n % 2 else relu_even(n, amplitude) for n in range(2, 9)]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


def test_paper_046_the_absolute_value_doubles_the_tone() -> None:
    found = harmonics(_Absolute())
    assert found[1] < 1e-12
    assert found[1:].argmax() == 1


def test_paper_046_half_linear_and_linear_dc_make_no_harmonics() -> None:
    assert harmonics(HalfLinear(1)).tolist() == pytest.approx([0, 0.5, *[0] * 7], abs=1e-12)
    dc = harmonics(LinearDC(1))
    assert dc.tolist() == pytest.approx([1 / math.pi, 0.5, *[0] * 7], abs=1e-3)
    assert harmonics(GCU(1))[3] > 0.01, "other functions make odd ones"
    with pytest.raises(ValueError, match="give at least"):
        harmonics(nn.ReLU(), cycles=1000)


def test_paper_046_relu_of_noise_has_the_mean_of_its_formula() -> None:
    x = 3 * torch.randn(1, 1, 400_000, generator=torch.Generator().manual_seed(0))
    expected = 3 / math.sqrt(2 * math.pi)
    for module in (nn.ReLU()(x), LinearDC(1)(Chunk.of(x)).x):
        assert module.mean().item() == pytest.approx(expected, rel=0.01)


def test_paper_046_linear_dc_has_the_mean_of_relu_over_time() -> None:
    c = ragged()
    y = LinearDC(4)(c)
    for row, length in enumerate(c.lengths.tolist()):
        x, out = c.x[row, :, :length], y.x[row, :, :length]
        assert_close("mean", torch.relu(x).mean(1), out.mean(1), 1e-12)
        centred = x / 2 - x.mean(1, keepdim=True) / 2
        assert_close("line", centred + 1, out - out.mean(1, keepdim=True) + 1, 1e-12)


def test_paper_046_the_means_are_the_same_to_the_bit_where_sums_are_exact() -> None:
    # sums of 64 sixteenths are exact, and so is a 64th of them
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-64, 65, (2, 4, 64), generator=generator) / 16
    mean = LinearDC(4)(Chunk.of(x)).x.mean(2)
    assert torch.equal(mean, torch.relu(x).mean(2))


def test_paper_024_abrelu_takes_each_utterance_alone() -> None:
    c = ragged()
    y = ABReLU(4, beta=0.8)(c)
    for row, length in enumerate(c.lengths.tolist()):
        x = c.x[row, :, :length]
        assert_close("y", torch.relu(x - 0.8 * x.mean()), y.x[row, :, :length], 1e-12)


@pytest.mark.parametrize(
    ("whole", "running"), [(ABReLU(4), RunningABReLU(4)), (LinearDC(4), RunningLinearDC(4))]
)
def test_the_running_form_ends_as_the_whole_does(whole: nn.Module, running: nn.Module) -> None:
    c = ragged()
    expected, found = whole(c).x, running(c).x
    for row, length in enumerate(c.lengths.tolist()):
        assert_close("last", expected[row, :, length - 1], found[row, :, length - 1], 1e-12)


def test_the_whole_form_names_the_running_one() -> None:
    for module, name in ((ABReLU(4), "abrelu_running"), (LinearDC(4), "linear_dc_running")):
        with pytest.raises(StreamError, match=f"use activation '{name}' to stream"):
            module.step(ragged(), ())


class _Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()
