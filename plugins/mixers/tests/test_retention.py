"""Retention: its three forms, its numbers, and what it does in a net (paper 23)."""

import math

import pytest
import torch
import torch.nn.functional as F
from speechkit_mixers.memory import Decay, recalled
from speechkit_mixers.retention import Retention
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import Chunk, StreamLayer
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.testing import assert_close, check_native, check_stream

LENGTHS = torch.tensor([97, 50])


def frames(channels: int = 12, count: int = 97, seed: int = 1) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, count, generator=chance, dtype=torch.float64)


def layer_of(channels: int = 12, stride: int = 1, heads: int = 2) -> Retention:
    torch.manual_seed(0)
    return Retention(channels, stride, heads).double()


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x.detach()


def parts(layer: Retention, x: Tensor) -> list[Tensor]:
    """q, k, v and g of one row of frames, each `[T, H, numbers of a head]`."""
    q, k, v = layer.input.weight.split(layer.widths)
    maps = (weight.detach() @ x for weight in (q, k, v, layer.gate.weight))
    return [part.t().unflatten(1, (layer.heads, -1)) for part in maps]


def test_paper_023_it_equals_a_loop_over_frames() -> None:
    layer, x = layer_of(), frames()
    q, k, v, g = parts(layer, x[0])
    q, k = (torch.complex(*part.chunk(2, dim=2)) for part in (q, k / 6**0.5))
    gamma = torch.tensor([1 - 1 / 32, 1 - 1 / 64], dtype=torch.float64)
    theta = torch.tensor([1, 1e-2, 1e-4], dtype=torch.float64)
    a = gamma[:, None] * torch.exp(-1j * theta)
    state, expected = torch.zeros(2, 3, 12, dtype=torch.complex128), []
    for t in range(97):
        state = a[:, :, None] * state + k[t, :, :, None] * v[t, :, None]
        o = torch.einsum("hk,hkv->hv", q[t].conj(), state).real
        o = o / (o.square().mean(1, keepdim=True) + 1e-6).sqrt()
        expected.append(layer.output.weight.detach() @ (F.silu(g[t]) * o).flatten())
    assert_close("retention", torch.stack(expected, 1), run(layer, x)[0], 1e-12)


def test_paper_023_it_is_attention_with_rotary_positions() -> None:
    layer, x = layer_of(), frames()
    q, k, v, _ = parts(layer, x[0])
    theta = 10000 ** -torch.linspace(0, 1, 3, dtype=torch.float64)
    n = torch.arange(97, dtype=torch.float64)
    turns = torch.exp(1j * n[:, None, None] * theta)
    q, k = (torch.complex(*part.chunk(2, dim=2)) * turns for part in (q, k / 6**0.5))
    scores = torch.einsum("nhk,mhk->hnm", q.conj(), k).real
    for head in range(2):
        scores[head] *= ((1 - 2.0 ** (-5 - head)) ** (n[:, None] - n)).tril()
    o = scores @ v.transpose(0, 1)
    alpha = scores / (o.square().mean(2, keepdim=True) + 1e-6).sqrt()
    assert_close("attention", alpha, layer.implicit_attention(Chunk.of(x))[0].detach(), 1e-11)


def test_paper_023_parallel_recurrent_and_chunkwise_are_equal() -> None:
    chance = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 2, 3, 97, 8, generator=chance, dtype=torch.float64)
    v = torch.randn(2, 3, 97, 5, generator=chance, dtype=torch.float64)
    state = torch.randn(2, 3, 5, 8, generator=chance, dtype=torch.float64)
    valid = torch.rand(2, 97, generator=chance) < 0.8
    k = k * valid[:, None, :, None]
    log = torch.tensor([-0.05, -0.01, -1e-4], dtype=torch.float64)
    for decay in (None, Decay(log, torch.linspace(1, 0.01, 4, dtype=torch.float64))):
        parallel, *others = (recalled(q, k, v, valid, state, decay, n) for n in (97, 1, 16, 64))
        for other in others:
            for name, one, two in zip(("o", "S"), parallel, other, strict=True):
                kept = valid[:, None, :, None] if name == "o" else torch.tensor(True)
                assert_close(name, one * kept, two * kept, 1e-12)


def test_paper_023_alpha_v_is_what_the_gate_multiplies() -> None:
    layer, x = layer_of(), frames()
    c = Chunk.of(x, LENGTHS)
    alpha = layer.implicit_attention(c)
    assert torch.equal(alpha, alpha.tril())
    for row, length in enumerate(LENGTHS):
        _, _, v, g = parts(layer, x[row])
        o = (alpha[row] @ v.transpose(0, 1)).transpose(0, 1)
        y = layer.output.weight @ (F.silu(g) * o).flatten(1).t()
        assert_close("y", y[:, :length], layer(c).x[row, :, :length], 1e-12)


def test_paper_023_a_frame_reads_none_after_it() -> None:
    layer, x = layer_of(), frames(count=20)[:1]
    slopes = torch.autograd.functional.jacobian(lambda x: layer(Chunk.of(x)).x.sum((0, 1)), x)
    assert isinstance(slopes, Tensor)
    read = slopes[:, 0].abs().amax(1)
    assert torch.equal(read > 0, torch.ones(20, 20).tril() > 0)


def test_paper_023_without_memory_each_frame_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_of(), frames()
    log = torch.full((2,), -math.inf, dtype=torch.float64)
    # 0 · (−∞) is NaN
    monkeypatch.setattr(layer, "decay", lambda *_: Decay(log.clamp(min=-1e9), torch.ones(3)))
    together = run(layer, x)
    alone = torch.cat([run(layer, x[:, :, t : t + 1]) for t in range(97)], dim=2)
    assert_close("γ = 0", alone, together, 1e-12)


def test_paper_023_the_state_has_one_size_and_no_count_of_frames() -> None:
    layer, x = layer_of(), frames()
    state = layer.init_state(2, 12)
    assert [part.shape for part in state] == [(2, 2, 12, 6)]
    for block in x.float().split(30, dim=2):
        _, state = layer.float().step(Chunk.of(block), state)
    assert [part.shape for part in state] == [(2, 2, 12, 6)]


@pytest.mark.parametrize(("channels", "stride", "heads"), [(12, 1, 2), (64, 2, 4), (20, 3, 1)])
def test_paper_023_chunks_and_the_native_step_equal_the_whole(
    channels: int, stride: int, heads: int
) -> None:
    layer, x = layer_of(channels, stride, heads), frames(channels)
    check_stream(layer, x, LENGTHS, chunks=(1, [1, 16, 23], 64))
    check_native(layer.float(), x.float(), LENGTHS)


def test_paper_023_a_head_that_remembers_long_is_exact_in_the_native_step() -> None:
    # it forgets in 4096 frames, over which the rounding of γ and θ would add up to 1e-4
    check_native(layer_of(16, heads=8).float(), frames(16, 4000)[:1].float(), strides=(30,))


@pytest.mark.slow
def test_paper_023_ten_million_frames_earlier_change_nothing() -> None:
    layer, block = layer_of(8).float(), 10_000
    native = NativeLayer(layer, block, c_in=8)
    x = frames(8, block).float()[:1]
    state = native.init_state(1, 8)
    for _ in range(1001):
        y, state = native.step(Chunk.of(x), state)
    # all that a head remembers is in the last frames
    expected = run(layer.double(), x.double())
    assert_close("after 10⁷ frames", expected[:, :, -100:], y.x[:, :, -100:].double(), 1e-5)


@pytest.mark.parametrize(
    "config",
    [
        sk.QuartzNet(labels=("a", "b"), size="5x5"),
        sk.MatchboxNet(labels=("a", "b"), size="3x1x64"),
        sk.MarbleNet(size="3x2x64"),
    ],
    ids=lambda config: config.kind,
)
def test_paper_023_a_row_of_a_net_begins_as_in_the_paper(config: sk.QuartzNet) -> None:
    row = sk.Block(channels=64, kernel=3, residual=True, mixer="mixers/retention")
    stem = sk.Block(channels=64, kernel=3, stride=2)
    torch.manual_seed(0)
    model = sk.build(type(config)(labels=config.labels, blocks=(stem, row)), seed=0)
    (layer,) = (m for m in model.modules() if isinstance(m, Retention))
    for weight, gain in (
        *((part, 2**-2.5) for part in layer.input.weight.split(layer.widths)),
        (layer.gate.weight, 2**-2.5),
        (layer.output.weight, 2**-1),
    ):
        expected = gain * (2 / sum(weight.shape)) ** 0.5
        assert float(weight.detach().std()) == pytest.approx(expected, rel=0.05)


def test_paper_023_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ComponentError, match="heads=4, value_factor=2 for 12 channels; give heads"):
        Retention(12)
