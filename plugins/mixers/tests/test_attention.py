"""Attention: its weights against plain formulas, and its window."""

import pytest
import torch
from speechkit_mixers.attention import PAPERS, Attention, Heads, Weights, attention
from speechkit_mixers.heads import split_heads
from speechkit_mixers.norms import RMSGate
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import Chunk
from speechkit.testing import check_native
from speechkit.train.optim import parameter_groups

WINDOWS = [(4, 0, 1), (3, 3, 1), (70, 2, 1), (5, 4, 3)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def made(weight: str = "softmax", left: int = 4, right: int = 0, stride: int = 1) -> Attention:
    torch.manual_seed(0)
    layer = Attention(8, left, right, stride, weight)
    for parameter in layer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return layer.double()


def ragged(x: Tensor) -> Chunk:
    c = Chunk.of(x, torch.tensor([x.shape[2], x.shape[2] // 2]))
    return Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid)


@torch.no_grad()
def looped(layer: Attention, c: Chunk, weight: str) -> Tensor:
    """The output frame by frame and head by head, `[B, C, T]`, written as the papers do."""
    maps = layer.maps(c).x
    batch, _, frames = maps.shape
    y = torch.zeros(batch, 8, frames, dtype=maps.dtype)
    for b in range(batch):
        for t in range(0, frames, layer.stride):
            near = range(max(0, t - int(layer.left)), min(frames, t + int(layer.right) + 1))
            keys = [j for j in near if c.valid[b, j]]
            for h in range(4 if keys else 0):
                q, k, v = (maps[b, start + 2 * h : start + 2 * h + 2] for start in (0, 8, 16))
                scores = (q[:, t] @ k[:, keys]) / 2**0.5
                a = scores.softmax(0) if weight == "softmax" else scores.relu()
                if weight == "relu":
                    a = a / len(keys)
                if weight == "reluformer":
                    gamma = layer.heads.weights.log_scale[h].exp()
                    a = a / (gamma * (len(keys) / 2) ** 0.5)
                y[b, 2 * h : 2 * h + 2, t] = v[:, keys] @ a
    if weight == "rela":
        gate = layer.gate.module
        root = (y.square().mean(1, keepdim=True) + 1e-6).sqrt()
        y = gate.scale[:, None] * y / root * torch.sigmoid(gate.gate[:, None] * y)
    return y[:, :, :: layer.stride]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("weight", PAPERS)
def test_papers_029_035_058_it_is_the_formula(weight: str, window: tuple[int, int, int]) -> None:
    layer, c = made(weight, *window), ragged(normal(2, 8, 76))
    y = layer(c)
    expected = torch.where(y.valid[:, None], looped(layer, c, weight), 0)
    torch.testing.assert_close(y.masked, expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_paper_058_queries_and_keys_are_normalised_in_each_head() -> None:
    layer, x = made("relu"), normal(1, 8, 12)
    q, k, v = layer.maps(Chunk.of(x)).x[0].split(8)
    for given, map_, norm in (
        (q, layer.query, layer.query_norm),
        (k, layer.key, layer.key_norm),
    ):
        heads = (map_.weight @ x[0]).unflatten(0, (4, 2))
        centred = heads - heads.mean(1, keepdim=True)
        unit = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(given, unit.flatten(0, 1) * norm.module.scale[:, None])
    torch.testing.assert_close(v, layer.value.weight @ x[0])
    # the other weights take them as they are
    for weight in ("softmax", "rela", "reluformer"):
        layer = made(weight)
        maps = [m.weight @ x[0] for m in (layer.query, layer.key, layer.value)]
        torch.testing.assert_close(layer.maps(Chunk.of(x)).x[0], torch.cat(maps))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("weight", PAPERS)
def test_a_native_step_computes_the_same(weight: str, window: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    layer = Attention(24, *window, weight)
    check_native(layer, normal(2, 24, 90).float(), torch.tensor([90, 23]))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("weight", PAPERS)
def test_steps_equal_the_whole(weight: str, window: tuple[int, int, int]) -> None:
    layer = made(weight, *window)
    sk.testing.check_stream(layer, normal(2, 8, 90), torch.tensor([90, 23]))


@pytest.mark.parametrize("weight", PAPERS)
def test_paper_111_its_implicit_attention_times_the_values_is_what_the_heads_give(
    weight: str,
) -> None:
    layer, c = made(weight, 5, 2), ragged(normal(2, 8, 40))
    a = layer.implicit_attention(c)
    given = layer.value(Chunk(c.masked, c.valid)).x.transpose(1, 2)
    values = split_heads(given, layer.heads.heads)
    found = (a @ values).transpose(1, 2).flatten(2).transpose(1, 2)
    heads = layer.heads(layer.maps(c))
    torch.testing.assert_close(torch.where(c.valid[:, None], found, 0), heads.masked)
    assert a.shape == (2, 4, 40, 40)
    assert not a[1, :, :, 20:].any()
    assert not a[1, :, 20:].any()
    assert not torch.triu(a, 3).any()
    assert not torch.triu(made(weight, 5, 0).implicit_attention(c), 1).any()


def test_softmax_weights_sum_to_one() -> None:
    sums = made("softmax", 5, 2).implicit_attention(ragged(normal(2, 8, 40))).sum(3)
    torch.testing.assert_close(sums[0], torch.ones_like(sums[0]))


@pytest.mark.parametrize("weight", PAPERS)
def test_paper_029_a_query_without_any_weight_gives_zeros_and_a_finite_gradient(
    weight: str,
) -> None:
    layer = made(weight, 5, 0)
    x = normal(1, 8, 20).requires_grad_()
    if weight == "softmax":
        # the softmax has weights wherever a frame is valid
        c = Chunk(x, torch.zeros(1, 20, dtype=torch.bool))
    else:
        c = Chunk(x, torch.ones(1, 20, dtype=torch.bool))
        with torch.no_grad():
            # each score is −|k|² or less
            layer.query.weight.copy_(-layer.key.weight)
        x = x[:, :, :1].expand(-1, -1, 20)
        c = Chunk(x, c.valid)
    y = layer(c).x
    assert not y.any()
    y.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


def unit(weight: str, n: int, normalise: str | None = None, seed: int = 0) -> Tensor:
    """A of normal queries and keys with 16 channels in each of 4 heads, `[4, 64, n]`."""
    function, usual = PAPERS[weight]
    weights = Weights(4, function, normalise or usual)
    q, k = normal(4, 64, 16, seed=seed), normal(4, n, 16, seed=seed + 1)
    allowed = torch.ones(4, 64, n, dtype=torch.bool)
    a: Tensor = weights(Heads.scores(q, k), allowed).detach()
    return a


def test_paper_035_the_variance_of_reluformer_is_flat_in_n() -> None:
    def variance(n: int, weight: str, normalise: str | None = None) -> float:
        values = normal(4, n, 64, seed=9)
        return float((unit(weight, n, normalise) @ values).var())

    flat = [variance(n, "reluformer") for n in (16, 64, 256, 1024)]
    assert flat == pytest.approx([1.0] * 4, rel=0.25)
    grown = [variance(n, "relu", "none") for n in (16, 1024)]
    assert grown[1] > 40 * grown[0]
    shrunk = [variance(n, "softmax") for n in (16, 1024)]
    assert shrunk[1] < shrunk[0] / 20


def test_paper_058_the_row_sums_of_relu_do_not_grow_with_the_number_of_keys() -> None:
    sums = [float(unit("relu", n).sum(2).mean()) for n in (100, 1000)]
    assert sums == pytest.approx([0.4, 0.4], abs=0.02)
    grown = [float(unit("relu", n, "none").sum(2).mean()) for n in (100, 1000)]
    assert grown[1] / grown[0] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("normalise", ["keys", "learned"])
def test_papers_035_058_n_counts_valid_frames_only(normalise: str) -> None:
    weights = Weights(1, "relu", normalise)
    scores = normal(1, 3, 12)
    allowed = torch.arange(12) < 5
    found, alone = weights(scores, allowed), weights(scores[..., :5], allowed[:5])
    torch.testing.assert_close(found[..., :5], alone)
    assert not found[..., 5:].any()


def test_paper_029_half_of_the_weights_of_rela_are_zero_at_first() -> None:
    assert float((unit("rela", 500) == 0).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_paper_029_the_norm_of_rela_cancels_the_scale_of_the_queries() -> None:
    gate = RMSGate(64).double()
    torch.nn.init.zeros_(gate.gate)
    weights, values = unit("rela", 50), normal(4, 50, 64, seed=3)
    x = (weights @ values).transpose(1, 2)
    torch.testing.assert_close(gate(100 * x), gate(x), rtol=1e-4, atol=1e-5)


def test_paper_029_frames_have_no_order() -> None:
    layer, x = made("rela", 19, 19), normal(1, 8, 20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    moved = layer(Chunk.of(x[:, :, order])).x
    torch.testing.assert_close(moved, layer(Chunk.of(x)).x[:, :, order])


@pytest.mark.parametrize("weight", PAPERS)
def test_its_maps_alone_are_decayed(weight: str) -> None:
    layer = Attention(8, 5, 0, weight=weight, qk_norm=True)
    decayed, kept = (group["params"] for group in parameter_groups(layer))
    assert len(decayed) == 3
    assert len(kept) == {"rela": 4, "reluformer": 3}.get(weight, 2)


def test_a_window_adds_no_latency_to_that_of_the_kernel() -> None:
    layer = attention(8, 11, 1, 1, "same", window=64)
    assert (layer.left, layer.right) == (58, 5)
    assert attention(8, 11, 1, 2, 3).left == 17
    assert attention(8, 11, 1, 1, "same", window=3).right == 2
    assert attention(8, 5, 2, 1, 4).delay == 2


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"weight": "relux"}, "weight='relux', normalise=None; give weight softmax or relu"),
        ({"normalise": "rows"}, "give weight .*, normalise keys or learned"),
        ({"heads": 3}, "heads=3 of 8 channels"),
        ({"window": 1}, "a window of 1 frame"),
        ({"weight": "relu", "heads": 8}, "give fewer heads or qk_norm=false"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, object], match: str) -> None:
    with pytest.raises(ComponentError, match=match):
        attention(8, 5, 1, 1, 0, **given)  # type: ignore[arg-type]
