"""The channel layer of keys and values, against its formula."""

import pytest
import torch
from speechkit_mixers.kv_memory import kv_memory
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.nn import Chunk
from speechkit.testing import check_native


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("ln", [True, False])
@pytest.mark.parametrize("act", ["softmax", "relu"])
def test_paper_035_it_is_the_weighted_sum_of_the_values(act: str, ln: bool) -> None:
    torch.manual_seed(0)
    layer, x = kv_memory(6, 4, slots=10, act=act, ln=ln).double(), normal(2, 6, 9)
    keys, values = layer.get_parameter("keys.weight"), layer.get_parameter("values.weight")
    scores = keys @ x
    a = scores.softmax(1) if act == "softmax" else scores.clamp(min=0)
    expected = values @ a
    if ln:
        centred = expected - expected.mean(1, keepdim=True)
        expected = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(layer(Chunk.of(x)).x, expected)


def test_paper_035_with_the_norm_both_functions_have_the_same_variance() -> None:
    x = normal(1, 64, 200)

    @torch.no_grad()
    def variance(act: str, ln: bool) -> float:
        torch.manual_seed(0)
        return float(kv_memory(64, 64, act=act, ln=ln).double()(Chunk.of(x)).x.var())

    # the softmax's is so small that eps counts
    assert variance("softmax", True) == pytest.approx(1, rel=0.05)
    assert variance("relu", True) == pytest.approx(1, rel=0.01)
    assert variance("softmax", False) < 0.02 * variance("relu", False)


@pytest.mark.parametrize("act", ["softmax", "relu"])
def test_a_native_step_computes_the_same(act: str) -> None:
    torch.manual_seed(0)
    layer, x = kv_memory(12, 20, act=act), normal(2, 12, 30).float()
    check_native(layer, x, torch.tensor([30, 11]))


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ComponentError, match="slots=-1, act='softmax'"):
        kv_memory(8, 8, slots=-1)
    with pytest.raises(ComponentError, match=r"act='gelu'; give .* softmax or relu"):
        kv_memory(8, 8, act="gelu")
