"""Queries gather one frame from all blocks of a net."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from speechkit_mixers.depth_fusion import DepthFusion, depth_fusion
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError, ConfigError, StreamError
from speechkit.nn import Chunk, DepthwiseConv, Pointwise, Serial
from speechkit.train.optim import parameter_groups

WIDTHS = (6, 6, 5, 7)
CLIPS = {
    "matchboxnet": partial(sk.MatchboxNet, labels=("a", "b"), size="3x1x64"),
    "marblenet": partial(sk.MarbleNet, size="3x2x64"),
    "quartznet": partial(sk.QuartzNet, size="5x5", head="clip"),
}


def made(**params: object) -> DepthFusion:
    """A stack of three blocks, the second of stride 2."""
    torch.manual_seed(0)
    blocks = [
        Serial(mixer=DepthwiseConv(a, 3, stride=1 + (a == b)), channel=Pointwise(a, b))
        for a, b in zip((4, *WIDTHS[1:3]), WIDTHS[1:], strict=True)
    ]
    chosen = {"dim": 8, "queries": 3, "heads": 2, **params}
    return depth_fusion(blocks, **chosen).double().eval()


def utterances(frames: int = 20) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, frames, generator=chance, dtype=torch.float64)


def levels_of(stack: DepthFusion, c: Chunk) -> list[Chunk]:
    found = []
    for block in stack.blocks:
        c = block(c)
        found.append(c)
    return found


def attended(layer: torch.nn.Module, q: Tensor, x: Tensor) -> Tensor:
    """Attention of q `[Q, D]` to x `[T, D]`, head by head."""
    parts = []
    size = q.shape[1] // layer.heads
    for head in range(layer.heads):
        rows = slice(head * size, (head + 1) * size)
        scores = (q @ layer.query.weight[rows].T) @ (x @ layer.key.weight[rows].T).T / size**0.5
        parts.append(scores.softmax(1) @ (x @ layer.value.weight[rows].T))
    return torch.cat(parts, dim=1) @ layer.out.weight.T


def normed(norm: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("tanh", [False, True])
def test_paper_071_the_cell_is_the_papers(tanh: bool) -> None:
    stack = made(tanh=tanh)
    cell = stack.cell
    for weight in stack.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    c = Chunk.of(utterances(), torch.tensor([20, 9]))
    a = torch.tanh if tanh else (lambda x: x)
    for row in range(2):
        h = stack.queries
        for level, adapter in zip(levels_of(stack, c), stack.adapters, strict=True):
            x = (adapter.weight @ level.x[row][:, level.valid[row]]).T
            h = h + cell.ids
            normal = normed(cell.norm, h)
            r = h + attended(cell.among, normal, normal)
            t = attended(cell.across, normal, normed(cell.frame_norm, x))
            kept = torch.sigmoid(t @ cell.keep.weight.T + cell.keep.bias)
            taken = torch.sigmoid(t @ cell.take.weight.T + cell.take.bias)
            h = a(r) * kept + a(t) * taken
            h = h + cell.mlp(normed(cell.last_norm, h))
        torch.testing.assert_close(stack.fused(c)[row], h)
        torch.testing.assert_close(stack(c).x[row, :, 0], stack.out.weight @ h.mean(0))


def test_paper_071_without_the_past_it_pools_the_last_block_by_attention() -> None:
    """Input gate 1, forget gate 0, no MLP: plain attentive pooling, if the ids are off."""
    stack = made(levels=1, ids=False)
    torch.nn.init.constant_(stack.cell.keep.bias, -1e4)
    torch.nn.init.constant_(stack.cell.take.bias, 1e4)
    for weight in stack.cell.mlp.parameters():
        torch.nn.init.zeros_(weight)
    c = Chunk.of(utterances())
    x = stack.adapters[0](levels_of(stack, c)[-1]).x[0].T
    q = normed(stack.cell.norm, stack.queries)
    pooled = attended(stack.cell.across, q, normed(stack.cell.frame_norm, x))
    torch.testing.assert_close(stack.fused(c)[0], pooled)


def test_paper_071_queries_are_a_set_without_ids() -> None:
    c, order = Chunk.of(utterances()), [2, 0, 1]
    for ids in (False, True):
        stack = made(ids=ids)
        before = stack.fused(c)
        with torch.no_grad():
            stack.queries.copy_(stack.queries[order])
        assert torch.allclose(stack.fused(c), before[:, order]) is not ids


def test_paper_071_the_cell_is_shared_by_the_levels() -> None:
    counts = []
    for levels in (1, 2, 3):
        stack = made(levels=levels)
        widths = WIDTHS[1:][-levels:]
        assert [tuple(a.weight.shape) for a in stack.adapters] == [(8, w) for w in widths]
        counts.append(sum(p.numel() for p in stack.cell.parameters()))
    assert counts[0] == counts[1] == counts[2]


def test_paper_071_padding_changes_nothing() -> None:
    stack, x = made(), utterances()
    x[1, :, 9:] = torch.nan
    together = stack(Chunk.of(x, torch.tensor([20, 9]))).x
    alone = stack(Chunk.of(x[1:, :, :9])).x
    torch.testing.assert_close(together[1:], alone)


def test_an_utterance_without_frames_is_finite() -> None:
    y = made()(Chunk.of(utterances(), torch.tensor([20, 0])))
    assert y.x.isfinite().all()
    assert y.valid.tolist() == [[True], [True]]


@pytest.mark.parametrize("net", CLIPS)
def test_a_built_net_learns_and_comes_back(net: str, tmp_path: Path) -> None:
    model = sk.build(CLIPS[net](stack="depth_fusion"), seed=3)
    stack = model.encoder
    assert isinstance(stack, DepthFusion)
    assert len(stack.adapters) == len(stack.blocks) >= 4
    # the start is the layer's own
    assert 0.17 < stack.queries.std().item() < 0.23
    audio = 0.1 * torch.randn(2, 6400, generator=torch.Generator().manual_seed(0))
    scores = model.train()(audio, torch.tensor([6400, 4000])).scores
    assert scores.shape == (2, len(model.labels))
    F.cross_entropy(scores, torch.tensor([0, 1])).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, f"no gradient reaches {name}"
    assert all(adapter.weight.grad.any() for adapter in stack.adapters)
    sk.save(model.eval(), tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(sk.load(tmp_path / "model")(audio).scores, model(audio).scores)


@pytest.mark.parametrize("make", [partial(sk.QuartzNet, size="5x5"), sk.MarbleNet])
def test_a_head_that_scores_every_frame_is_refused(make: partial[sk.QuartzNet]) -> None:
    frames = {"frame_level": True} if make is sk.MarbleNet else {}
    with pytest.raises(ConfigError, match=r"depth_fusion gives one frame .* head that pools"):
        sk.build(make(stack="depth_fusion", **frames))


def test_weight_decay_spares_the_queries_and_the_norms() -> None:
    stack = made()
    _, spared = ({id(p) for p in group["params"]} for group in parameter_groups(stack))
    found = {name.partition(".")[0] for name, p in stack.cell.named_parameters() if id(p) in spared}
    assert found == {"norm", "frame_norm", "last_norm"}
    assert id(stack.queries) in spared
    assert not {id(p) for p in stack.adapters.parameters()} & spared


def test_it_does_not_stream() -> None:
    stack = made()
    with pytest.raises(StreamError, match="use stack=serial to stream"):
        stack.step(Chunk.of(utterances()), ())


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ComponentError, match="levels=4 of 3 blocks; give 1 to 3"):
        made(levels=4)
    with pytest.raises(ComponentError, match="heads that divide dim"):
        made(heads=3)
