"""The linear recurrence against its loop."""

import pytest
import torch
from torch import Tensor, nn

from speechkit.nn import scan

TOLERANCES = {
    torch.float64: 6e-16,
    torch.float32: 3e-7,
    torch.complex128: 6e-16,
    torch.complex64: 3e-7,
}


def loop(a: Tensor, u: Tensor, h: Tensor) -> Tensor:
    outputs = []
    for a_t, u_t in zip(a.unbind(1), u.unbind(1), strict=True):
        h = a_t * h + u_t
        outputs.append(h)
    return torch.stack(outputs, dim=1)


def given(frames: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """a within the unit circle, u and h, for two rows of three channels."""
    chance = torch.Generator().manual_seed(frames)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=chance, dtype=dtype)

    a = draw(2, frames, 3)
    return a / a.abs().clamp(min=1) * 0.999, draw(2, frames, 3), draw(2, 3)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 25, 200])
def test_it_is_the_loop(frames: int, dtype: torch.dtype) -> None:
    a, u, h = given(frames, dtype)
    expected = loop(a, u, h)
    error = (scan(a, u, h) - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCES[dtype]


@pytest.mark.parametrize("frames", [1, 3, 25])
def test_pairs_are_complex_numbers(frames: int) -> None:
    given_ = given(frames, torch.complex128)
    pairs = scan(*(torch.cat([x.real, x.imag], dim=-1) for x in given_), pairs=True)
    torch.testing.assert_close(torch.complex(*pairs.chunk(2, -1)), scan(*given_))


def test_no_frames_give_none() -> None:
    assert scan(*given(0)).shape == (2, 0, 3)


def test_gradients_are_the_loops() -> None:
    gradients = []
    for function in (loop, scan):
        leaves = [x.requires_grad_() for x in given(25)]
        y = function(*leaves)
        gradients.append(torch.autograd.grad(y.sin().sum(), leaves))
    for expected, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_are_true(dtype: torch.dtype) -> None:
    assert torch.autograd.gradcheck(scan, [x.requires_grad_() for x in given(5, dtype)])


def test_one_chunk_goes_on_where_the_last_ended() -> None:
    a, u, h = given(40)
    whole, parts = scan(a, u, h), []
    for start, end in ((0, 1), (1, 14), (14, 14), (14, 40)):
        parts.append(scan(a[:, start:end], u[:, start:end], h))
        h = parts[-1][:, -1] if end > start else h
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-12, atol=1e-12)


def test_channels_may_share_a_complex_factor() -> None:
    a, u, h = given(25, torch.complex128)
    shared, state = a[:, :, :1], torch.zeros_like(h)
    torch.testing.assert_close(scan(shared, u.real, state), loop(shared, u.real, state))
    matrix = u[:, :, :, None] * u[:, :, None]
    start = torch.zeros_like(matrix[:, 0])
    torch.testing.assert_close(scan(a[..., None], matrix, start), loop(a[..., None], matrix, start))


def test_zeros_and_ones_are_exact() -> None:
    a, u, h = given(30)
    kept = torch.ones(2, 30, 1, dtype=torch.float64)
    assert torch.equal(scan(kept, torch.zeros_like(u), h), h[:, None].expand(-1, 30, -1))
    assert torch.equal(scan(torch.zeros_like(a), u, h), u)


class Scan(nn.Module):
    def forward(self, a: Tensor, u: Tensor, h: Tensor) -> Tensor:
        return scan(a, u, h)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_one_takes_more_frames_than_it_was_traced_with(strict: bool) -> None:
    free = {1: torch.export.Dim.DYNAMIC}
    shapes = free, free, None
    program = torch.export.export(Scan(), given(9), dynamic_shapes=shapes, strict=strict)
    longer = given(1000)
    torch.testing.assert_close(program.module()(*longer), scan(*longer), rtol=1e-12, atol=1e-12)


def test_an_exported_one_of_a_known_number_of_frames_has_no_more_products_than_it_needs() -> None:
    program = torch.export.export(Scan(), given(9))
    pads = [node for node in program.graph.nodes if "pad" in str(node.target)]
    assert len(pads) == 2 * 4
