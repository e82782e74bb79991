"""Simplified linear attention: its sums, its shared filters, and folding beside it (paper 100)."""

import copy

import pytest
import torch
import torch.nn.functional as F
from speechkit_mixers.sla import HeadConv, LinearAttention, SimplifiedLinearAttention
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import Chunk, StreamLayer, fuse
from speechkit.testing import assert_close, check_native, check_stream

LENGTHS = torch.tensor([97, 50])


def frames(channels: int = 12, count: int = 97) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, count, generator=chance, dtype=torch.float64)


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x.detach()


def test_paper_100_the_linear_form_is_the_quadratic_form() -> None:
    x = frames(36)
    q, k, v = (part.unflatten(1, (2, 6)).transpose(2, 3) for part in x.chunk(3, 1))
    scores = (q.relu() @ k.relu().transpose(2, 3)).tril()
    expected = scores @ v / (scores.sum(3, keepdim=True) + 1e-6)
    y = run(LinearAttention(12, 2), x).unflatten(1, (2, 6)).transpose(2, 3)
    assert_close("linear attention", expected, y, 1e-12)


def test_paper_100_it_equals_a_loop_over_frames() -> None:
    torch.manual_seed(0)
    layer, x = SimplifiedLinearAttention(12, heads=2, lookahead=2).double(), frames()
    maps, out = layer.get_submodule("input"), layer.get_submodule("output")
    q, k, v = (maps.weight.detach() @ x[0] + maps.bias.detach()[:, None]).chunk(3)
    conv = layer.get_parameter("sum.shortcut.conv.weight").detach()
    near = F.conv1d(v, conv.repeat(2, 1, 1), padding=2, groups=12)
    sums, counts = torch.zeros(2, 6, 6).double(), torch.zeros(2, 6).double()
    expected = []
    for t in range(97):
        q_t, k_t, v_t = (part[:, t].view(2, 6) for part in (q.relu(), k.relu(), v))
        sums, counts = sums + k_t[:, :, None] * v_t[:, None], counts + k_t
        y = torch.einsum("hk,hkv->hv", q_t, sums) / ((q_t * counts).sum(1, keepdim=True) + 1e-6)
        expected.append(out.weight.detach() @ (y.flatten() + near[:, t]) + out.bias.detach())
    assert_close("sla", torch.stack(expected, 1), run(layer, x)[0], 1e-12)


def test_paper_100_alpha_v_is_the_output() -> None:
    layer, c = LinearAttention(12, 2), Chunk.of(frames(36), LENGTHS)
    alpha = layer.implicit_attention(c)
    assert torch.equal(alpha, alpha.tril())
    y = (alpha @ layer.split(c)[2]).transpose(2, 3).flatten(1, 2)
    for row, length in enumerate(LENGTHS):
        assert_close("y", layer(c).x[row, :, :length], y[row, :, :length], 1e-12)
        assert not alpha[row, :, length:].any()


@pytest.mark.parametrize(
    ("channels", "stride", "heads", "lookahead"), [(12, 1, 2, 0), (64, 2, 4, 1), (20, 3, 1, 9)]
)
def test_paper_100_chunks_and_the_native_step_equal_the_whole(
    channels: int, stride: int, heads: int, lookahead: int
) -> None:
    torch.manual_seed(0)
    layer = SimplifiedLinearAttention(channels, stride, lookahead, heads).double()
    assert layer.right == min(lookahead, 4)
    check_stream(layer, frames(channels), LENGTHS, chunks=(1, [1, 16, 23], 64))
    check_native(layer.float(), frames(channels).float(), LENGTHS)


def test_paper_100_a_large_sum_still_grows() -> None:
    # a frame of weight 2 · 10⁷, to which a float adds no 0.4
    x = torch.ones(1, 3, 2000)
    x[:, 1], x[:, 2] = 0.4, -1
    x[:, 1, 0], x[:, 2, 0] = 2e7, 1
    layer = LinearAttention(1, 1)
    y = run(layer, x)
    assert float(y[0, 0, -1]) == pytest.approx(1 - 2 * 0.4 * 1999 / 2e7, abs=5e-6)
    check_stream(layer, x, chunks=(1,), rtol=5e-6)
    check_native(layer, x, strides=(10,), rtol=1e-6)


def test_paper_100_heads_share_their_filters() -> None:
    conv = HeadConv(12, 3, 5, 1, 0)
    assert conv.weight.shape == (4, 1, 5)
    assert torch.equal(conv.filters()[4:8], conv.weight)


def test_paper_100_prepbn_beside_it_is_folded_exactly() -> None:
    rows = (
        sk.Block(channels=16, kernel=5, stride=2),
        sk.Block(channels=16, kernel=5, residual=True, mixer="mixers/sla"),
    )
    model = sk.build(sk.QuartzNet(labels=("a", "b"), blocks=rows, norm="norms/prepbn"), seed=0)
    x = torch.randn(4, 16000, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        model.train()(x)
    with torch.inference_mode():
        encoder = model.eval().encoder
        given = model.stem(model.features(x))
        folded = fuse(copy.deepcopy(encoder))
        assert not any(type(layer).__name__ == "PRepBN" for layer in folded.modules())
        assert_close("folded", encoder(given).x, folded(given).x, 1e-5)


def test_paper_100_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ComponentError, match="heads=5, taps=5 for 12 channels; give heads"):
        SimplifiedLinearAttention(12, heads=5)
