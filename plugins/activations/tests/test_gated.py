import pytest
import torch
import torch.nn.functional as F
from speechkit_activations.gated import GATES, GLU, glu_ffn
from torch import Tensor

from speechkit.nn import Chunk
from speechkit.testing import assert_close


def halves(seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, 2, 6, 9, generator=torch.Generator().manual_seed(seed))
    return x[0], x[1]


def glu(kind: str, a: Tensor, b: Tensor) -> Tensor:
    y: Tensor = GLU(a.shape[1], kind)(torch.cat([a, b], dim=1))
    return y


def test_paper_022_the_first_half_is_the_gate() -> None:
    a, b = halves()
    assert torch.equal(glu("glu", a, b), F.glu(torch.cat([b, a], dim=1), dim=1))
    assert torch.equal(glu("reglu", a, b), torch.relu(a) * b)
    # vectors and their rests are rounded differently
    assert_close("geglu", F.gelu(a) * b, glu("geglu", a, b), 1e-6)
    assert_close("swiglu", F.silu(a) * b, glu("swiglu", a, b), 1e-6)


def test_paper_022_bilinear_is_linear_in_each_half() -> None:
    a, b = halves()
    y = glu("bilinear", a, b)
    assert torch.equal(glu("bilinear", 2 * a, b), 2 * y)
    assert torch.equal(glu("bilinear", a, 4 * b), 4 * y)


@pytest.mark.parametrize("kind", GATES)
def test_paper_022_gradients(kind: str) -> None:
    x = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(GLU(3, kind), (x,))


def test_paper_022_two_thirds_of_the_width_match_the_parameters() -> None:
    layer = glu_ffn(256, 256, multiple_of=1)
    gated = sum(p.numel() for p in layer.parameters())
    assert gated == 523_776
    assert abs(gated - 2 * 256 * 4 * 256) <= 0.002 * gated
    rounded = glu_ffn(256, 256)
    assert rounded.narrow.weight.shape == (256, 688)  # type: ignore[union-attr]


def test_paper_022_the_layer_is_its_formula() -> None:
    layer = glu_ffn(6, 5, kind="reglu", multiple_of=4)
    x = halves()[0]
    both = layer.wide.weight @ x  # type: ignore[union-attr,operator]
    a, b = both.chunk(2, dim=1)
    expected = layer.narrow.weight @ (torch.relu(a) * b)  # type: ignore[union-attr,operator]
    assert_close("y", expected, layer(Chunk.of(x)).x, 1e-5)
    assert layer.channels_out(6) == 5


def test_an_unknown_gate_is_named() -> None:
    with pytest.raises(ValueError, match="give one of glu, bilinear, reglu, geglu, swiglu"):
        GLU(4, "geluglu")
