"""The linear recurrent unit (paper 31)."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from speechkit_mixers.lru import LRU, Diagonal, lru
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import Chunk
from speechkit.testing import assert_close, check_native, check_stream

Frames = Callable[..., Tensor]
TURNS = 2 * np.pi


def made(stride: int = 1, channels: int = 8, states: int = 6, **params: float) -> LRU:
    torch.manual_seed(0)
    return lru(channels, 5, stride, 1, 0, states, **params).eval()


def diagonal(sizes: Tensor, phases: Tensor) -> Diagonal:
    """The recurrence with these eigenvalues, whose input is not scaled."""
    layer = Diagonal(len(sizes), 0.0, 1.0, 6.28).double()
    layer.nu.data = (-sizes.double().log()).log()
    layer.theta.data = phases.double().log()
    layer.gamma.data.zero_()
    return layer


def test_paper_031_it_equals_a_loop_over_frames(frames: Frames) -> None:
    layer, x = made().double(), frames(count=13)
    cell = layer.recurrence
    a = torch.exp(torch.complex(-cell.nu.exp(), cell.theta.exp()))
    b = torch.complex(*layer.input.weight.chunk(2))
    # y = Re(C h): the real part of C, and the imaginary one with the other sign
    c = torch.complex(
        *(layer.output.weight * torch.tensor([1.0, -1.0]).repeat_interleave(6)).chunk(2, 1)
    )
    h, expected = torch.zeros(2, 6, dtype=torch.complex128), []
    for t in range(13):
        u = x[:, :, t]
        h = a * h + cell.gamma.exp() * ((u + 0j) @ b.T)
        z = (h @ c.T).real + layer.direct * u
        one, other = (layer.gelu(z) @ layer.gate.weight.T + layer.gate.bias).chunk(2, 1)
        expected.append(u + one * other.sigmoid())
    assert_close("lru", torch.stack(expected, 2), layer(Chunk.of(x)).x, 1e-12)


def test_paper_031_it_starts_in_the_ring() -> None:
    torch.manual_seed(0)
    for r_min, r_max in ((0.0, 1.0), (0.4, 0.9), (0.9, 0.999)):
        layer = Diagonal(4096, r_min, r_max, 1.5)
        sizes = torch.exp(-layer.nu.exp())
        assert (sizes < 1).all()
        # uniform over the area
        share = (sizes.square() - r_min**2) / (r_max**2 - r_min**2)
        grid = torch.linspace(0, 1, 4096)
        assert (share.sort().values - grid).abs().max() < 0.03
        assert (layer.theta.exp().sort().values - 1.5 * grid).abs().max() < 0.05
        torch.testing.assert_close(
            layer.gamma.exp(), (1 - sizes.double() ** 2).sqrt().float(), rtol=1e-3, atol=1e-4
        )
        assert all(p.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("length", [16, 32, 64])
def test_paper_031_the_state_holds_all_frames_if_the_eigenvalues_are_complex(length: int) -> None:
    """Inverting the Vandermonde matrix of the eigenvalues gives the frames back."""
    chance = torch.Generator().manual_seed(length)
    x = torch.randn(length, generator=chance, dtype=torch.float64)
    places = torch.arange(length)
    turned = diagonal(torch.full((length,), 1 - 1e-15), TURNS * places / length)
    real = diagonal(
        torch.linspace(-1, 1, length + 2)[1:-1].abs(), torch.where(2 * places < length, np.pi, 0.0)
    )
    errors, conditions = [], []
    for layer in (turned, real):
        layer = layer.float()
        given = torch.cat([x.expand(length, -1), torch.zeros(length, length)])[None].float()
        (h,) = layer.step(Chunk.of(given), layer.init_state(1, 2 * length))[1]
        eigenvalues = torch.complex(*layer.eigenvalues(torch.float64).chunk(2))
        powers = eigenvalues[:, None] ** torch.arange(length).flip(0)
        conditions.append(torch.linalg.cond(powers).item())
        back = torch.linalg.solve(powers, torch.complex(*h[0].double().chunk(2)))
        errors.append((back.real - x).abs().max().item())
    assert conditions[0] == pytest.approx(1, abs=1e-4)
    assert errors[0] < 1e-3
    assert conditions[1] > 1e5
    assert errors[1] > 1e-2 if length == 16 else errors[1] > 1


def test_paper_031_a_stream_of_hours_stays_exact() -> None:
    layer = made(channels=2, states=1)
    cell = layer.recurrence
    # the state of any frame is that of the frames that it has not yet forgotten
    cell.nu.data.fill_(np.log(0.01))
    state = (torch.tensor([[1.0, -1.0]]),)
    still = Chunk.of(torch.zeros(1, 2, 4000))
    far = cell.step(still, state)[1]
    x = Chunk.of(torch.randn(1, 2, 50, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(cell.step(x, far)[0].x, cell(x).x)


def test_paper_111_the_recurrence_is_attention(frames: Frames) -> None:
    torch.manual_seed(0)
    layer = Diagonal(4, 0.0, 1.0, 6.28).double()
    c = Chunk.of(frames(count=13), torch.tensor([13, 9]))
    c = c._replace(valid=c.valid & (torch.arange(13) != 4))
    alpha = layer.implicit_attention(c)
    assert alpha.shape == (2, 4, 13, 13)
    assert not alpha.triu(1).any()
    assert not alpha[1, :, 9:].any()
    u = torch.complex(*c.masked.chunk(2, 1))
    h = (alpha @ u[..., None])[..., 0]
    assert_close("attention", layer(c).masked, torch.cat([h.real, h.imag], 1), 1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_paper_031_a_stream_and_the_native_step_equal_the_whole(
    frames: Frames, stride: int
) -> None:
    x, lengths = frames(count=41), torch.tensor([41, 17])
    check_native(made(stride), x.float(), lengths)
    check_native(made(stride, r_min=0.99, r_max=0.999), x.float(), lengths)
    check_stream(made(stride).double(), x, lengths)


def test_paper_031_its_own_start_is_that_of_a_built_net() -> None:
    row = sk.Block(channels=64, kernel=11, residual=True, mixer="mixers/lru")
    rows = (sk.Block(channels=64, kernel=11), row)
    model = sk.build(sk.MatchboxNet(labels=("a", "b"), blocks=rows))
    (layer,) = (m for m in model.modules() if isinstance(m, LRU))
    assert layer.input.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert layer.output.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)


def test_paper_031_parameters_that_make_no_ring_are_refused() -> None:
    for params in ({"states": 0}, {"r_min": 0.9, "r_max": 0.4}, {"r_max": 1.1}, {"max_phase": 7.0}):
        with pytest.raises(ComponentError, match="radii in order from 0 to 1"):
            lru(8, 1, 1, 1, 0, **params)  # type: ignore[arg-type]
