"""A tree of filters is the paper's, causal, and one convolution natively."""

from functools import partial
from math import sqrt
from typing import Any

import pytest
import torch
from speechkit_mixers.multires import MultiRes

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import Chunk


def made(kernel: int = 33, **params: Any) -> MultiRes:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MultiRes(4, kernel, **params).double()


def noise(frames: int = 90, channels: int = 4) -> torch.Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, frames, generator=chance, dtype=torch.float64)


def tree(layer: MultiRes, x: torch.Tensor) -> torch.Tensor:
    """The definition, with a loop over frames and taps."""

    def at(signal: list[torch.Tensor], t: int) -> torch.Tensor:
        return signal[t] if t >= 0 else torch.zeros_like(signal[0])

    k, frames = layer.low.shape[1], range(x.shape[2])
    *gains, skip = layer.gains.unbind(1)
    a = list(x.unbind(2))
    y = [skip * frame for frame in a]
    for level, width in enumerate(reversed(layer.widths), start=1):
        low, high = (
            [
                sum(h[:, k - 1 - i] * at(a, t - i * 2 ** (level - 1)) for i in range(k))
                for t in frames
            ]
            for h in (layer.low, layer.high)
        )
        own = [gains.pop() for _ in range(width)][::-1]
        for t in frames:
            y[t] = y[t] + sum(w * at(high, t - i * 2**level) for i, w in enumerate(own))
        a = low
    (last,) = gains
    return torch.stack([one + last * frame for one, frame in zip(y, a, strict=True)], dim=2)


@pytest.mark.parametrize(
    "params", [{}, {"taps": 3}, {"memory": 9}, {"memory": 3}, {"memory": 7, "taps": 4}]
)
def test_paper_083_it_is_the_sum_over_the_tree(params: dict[str, int]) -> None:
    layer, x = made(8, **params), noise(40)
    torch.testing.assert_close(layer(Chunk.of(x)).x, tree(layer, x), rtol=0, atol=1e-12)


def test_paper_083_an_impulse_reaches_exactly_64_frames() -> None:
    # 33 frames, and up to 64, need six levels of two taps
    for kernel in (33, 64):
        x = torch.zeros(1, 4, 200, dtype=torch.float64)
        x[:, :, 100] = 1
        (reached,) = made(kernel)(Chunk.of(x)).x.abs().amin(1)
        assert reached.nonzero().flatten().tolist() == list(range(100, 164))
    assert made(65).left == 127


def test_paper_083_one_on_the_frame_itself_is_the_identity() -> None:
    layer, x = made(), noise()
    with torch.no_grad():
        layer.gains.zero_()[:, -1] = 1
        assert torch.equal(layer(Chunk.of(x)).x, x)


def test_paper_083_widths_of_the_uniform_tree_grow_until_the_memory_is_used_up() -> None:
    assert made(33).widths == [1] * 6
    # 2 (n - 1) + 2 and 2 (n - 1) + 4
    assert made(33, memory=20).widths == [1, 2, 4, 8, 4, 0]
    assert made(22, memory=20, taps=4).widths == [1, 4, 10]
    assert made(33, memory=20).gains.shape[1] == 21


@pytest.mark.parametrize(("size", "share"), [("quartznet", 0.4), ("matchboxnet", 0.8)])
def test_paper_083_its_share_of_the_weights(size: str, share: float) -> None:
    # two taps on six levels, where a row of QuartzNet has 33 to 75 taps
    assert sum(p.numel() for p in made(33).parameters()) == 4 * (2 * 2 + 6 + 2)
    config = {
        "quartznet": partial(sk.QuartzNet, size="5x5"),
        "matchboxnet": partial(sk.MatchboxNet, labels=("a", "b"), size="3x1x64"),
    }[size]
    plain, tree = (
        sum(
            p.numel() for n, p in sk.build(config(mixer=mixer)).named_parameters() if ".mixer." in n
        )
        for mixer in ("depthwise", "multires")
    )
    assert tree <= share * plain


def test_paper_083_a_built_net_begins_as_the_authors() -> None:
    model = sk.build(sk.QuartzNet(size="5x5", mixer="multires"))
    layers = [m for m in model.modules() if isinstance(m, MultiRes)]
    assert len(layers) == 27
    for layer in layers:
        gains = layer.gains.shape[1]
        for weight, bound in (
            (layer.low, 0.5**0.5),
            (layer.high, 0.5**0.5),
            (layer.gains, gains**-0.5),
        ):
            assert weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / sqrt(3), rel=0.1)


def test_what_makes_no_tree_is_refused() -> None:
    for params, words in (
        ({"kernel": 1}, "kernel of at least 2"),
        ({"kernel": 5, "levels": 0}, "levels from 1"),
        ({"kernel": 5, "levels": 40}, "levels from 1"),
        ({"kernel": 5, "taps": 1}, "taps=1"),
        ({"kernel": 5, "memory": 1}, "memory=1"),
        ({"kernel": 5, "wavelet": 0}, "wavelet=0"),
    ):
        with pytest.raises(ComponentError, match=words):
            made(**params)


@pytest.mark.parametrize(
    ("order", "low"),
    [
        (1, [0.70710678, 0.70710678]),
        (2, [0.48296291, 0.83651630, 0.22414387, -0.12940952]),
        (3, [0.33267055, 0.80689151, 0.45987750, -0.13501102, -0.08544127, 0.03522629]),
    ],
)
def test_paper_083_a_wavelet_is_a_start(order: int, low: list[float]) -> None:
    layer = made(33, wavelet=order)
    expected = torch.tensor(low, dtype=torch.float64)
    torch.testing.assert_close(layer.low[0], expected, rtol=0, atol=1e-7)
    # orthogonal to each other and to their own shifts by two
    pair = torch.stack([layer.low[0], layer.high[0]])
    torch.testing.assert_close(pair @ pair.T, torch.eye(2).double(), rtol=0, atol=1e-7)
    for shift in range(2, 2 * order, 2):
        assert (pair[:, shift:] @ pair[:, :-shift].T).abs().max() < 1e-7
    assert layer.high[0].sum().abs() < 1e-7


@pytest.mark.parametrize("params", [{}, {"memory": 9}, {"taps": 3}, {"wavelet": 2}])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_a_stream_and_the_native_step_equal_the_whole(
    params: dict[str, int], stride: int, dilation: int
) -> None:
    layer = MultiRes(4, 13, stride, dilation, "same", **params).eval()
    sk.testing.check_native(layer, noise(61).float(), torch.tensor([61, 40]))
    sk.testing.check_stream(layer.double(), noise(61), torch.tensor([61, 40]))
    assert (layer.right, layer.delay) == (0, 0)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 2)])
def test_paper_111_its_implicit_attention_times_x_is_y(stride: int, dilation: int) -> None:
    layer = MultiRes(4, 9, stride, dilation).double()
    c = Chunk.of(noise(41), torch.tensor([41, 20]))
    alpha = layer.implicit_attention(c)
    y = layer(c)
    torch.testing.assert_close(
        (alpha @ c.masked[..., None]).squeeze(-1), y.masked, rtol=0, atol=1e-12
    )
    later = torch.arange(41) > torch.arange(0, 41, stride)[:, None]
    assert not alpha[:, :, later].any()
    assert not alpha[1, :, :, 20:].any()
