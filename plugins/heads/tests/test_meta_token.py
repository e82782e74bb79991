"""The head with a token: its weights, that it streams, and that it finds where a pattern is."""

from pathlib import Path

import pytest
import torch
from speechkit_heads.meta_token import MetaToken
from torch import Tensor, nn

import speechkit as sk
from speechkit.models import Net
from speechkit.nn import Chunk
from speechkit.testing import assert_close, check_native, check_stream

LENGTHS = torch.tensor([12, 7])


@pytest.fixture
def head() -> MetaToken:
    torch.manual_seed(0)
    return MetaToken(8, 3).double()


@pytest.fixture
def chunk() -> Chunk:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 12, 8, generator=generator, dtype=torch.float64).transpose(1, 2)
    c = Chunk.of(x, LENGTHS)
    return Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid)


def plain(head: MetaToken, x: Tensor) -> tuple[Tensor, Tensor]:
    """The scores and the weights of one utterance `[C, T]`, as in the formula."""
    w = (head.weighed.token @ x).softmax(0)
    linear = head.weighed.linear
    assert linear.bias is not None
    return linear.weight @ (x * w).sum(1) + linear.bias, w


def test_paper_101_it_is_attention_of_the_token_to_the_valid_frames(
    head: MetaToken, chunk: Chunk
) -> None:
    y, w = head(chunk), head.attention(chunk)
    assert y.valid.all()
    for row, length in enumerate(LENGTHS.tolist()):
        scores, weights = plain(head, chunk.x[row, :, :length])
        assert_close("scores", scores, y.x[row, :, 0], 1e-12)
        assert_close("weights", weights, w[row, :length], 1e-12)
        assert not w[row, length:].any()
    assert_close("their sum", torch.ones(2).double(), w.sum(1), 1e-12)


def test_paper_101_its_place_is_the_mean_of_the_frames_by_weight(
    head: MetaToken, chunk: Chunk
) -> None:
    places = head.place(chunk)
    for row, length in enumerate(LENGTHS.tolist()):
        _, w = plain(head, chunk.x[row, :, :length])
        assert_close("place", (w * torch.arange(length)).sum(), places[row], 1e-12)
    # a frame that the token likes far better than the others
    liked = torch.nan_to_num(chunk.x)
    liked[0, :, 4] = 100 * head.weighed.token.detach()
    assert float(head.place(Chunk(liked, chunk.valid))[0].detach()) == pytest.approx(4, abs=0.01)


def test_a_token_of_0_is_the_mean(head: MetaToken, chunk: Chunk) -> None:
    nn.init.zeros_(head.weighed.token)
    mean = sk.plugins.registry().build("head", "clip", 8, 3).double()
    mean.linear = head.weighed.linear
    assert_close("scores", mean(chunk).x, head(chunk).x, 1e-12)
    torch.testing.assert_close(head.place(chunk), torch.tensor([5.5, 3.0]).double())


def test_its_running_scores_are_those_of_each_prefix(head: MetaToken, chunk: Chunk) -> None:
    running = head.running()(chunk)
    for end in range(1, 13):
        prefix = head(Chunk(chunk.x[:, :, :end], chunk.valid[:, :end])).x[:, :, 0]
        rows = end <= LENGTHS
        assert_close(f"after {end} frames", prefix[rows], running.x[rows, :, end - 1], 1e-12)
    check_stream(head.running(), chunk.x, LENGTHS)


def test_its_sliding_scores_are_those_of_the_last_frames(head: MetaToken, chunk: Chunk) -> None:
    sliding = head.sliding(4)(chunk)
    for end in range(1, 13):
        window = head(Chunk.of(chunk.x[:1, :, max(0, end - 4) : end])).x[0, :, 0]
        assert_close(f"at {end}", window, sliding.x[0, :, end - 1], 1e-12)
    check_stream(head.sliding(4), chunk.x, LENGTHS)


@pytest.mark.parametrize("kind", ["running", "sliding"])
def test_the_native_engine_computes_its_stream(kind: str) -> None:
    torch.manual_seed(0)
    head = MetaToken(8, 3)
    layer = head.running() if kind == "running" else head.sliding(5)
    check_native(layer, torch.randn(2, 8, 20), torch.tensor([20, 13]))


def test_scores_without_bound_give_finite_numbers(head: MetaToken, chunk: Chunk) -> None:
    c = Chunk(1e4 * torch.nan_to_num(chunk.x).float(), chunk.valid)
    for layer in (head.float(), head.running()):
        assert torch.isfinite(layer(c).masked).all()
    nothing = Chunk(c.x, torch.zeros_like(c.valid))
    assert not head(nothing).x.any()


NETS: dict[str, Net] = {
    "matchboxnet": sk.MatchboxNet(size="3x1x64", labels=("a", "b"), head="meta_token"),
    "marblenet": sk.MarbleNet(size="3x2x64", head="meta_token"),
}


@pytest.mark.parametrize("name", NETS)
def test_a_net_streams_and_is_saved_with_it(name: str, tmp_path: Path) -> None:
    model = sk.build(NETS[name]).eval()
    head = model.head
    assert isinstance(head, MetaToken)
    token = head.weighed.token
    # the net's init leaves it as it began
    assert float(token.detach().norm()) == pytest.approx(1, rel=0.3)
    audio = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    with torch.inference_mode():
        whole = model(audio).scores
        stream = model.sliding(audio, None)
        last = stream.scores[:, int(stream.lengths[0]) - 1]
        assert_close("last frame", whole, last, 1e-4)
        sk.save(model, tmp_path / "model")
        assert torch.equal(sk.load(tmp_path / "model").eval()(audio).scores, whole)


def pattern_clips(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise `[B, 16, 80]` with the pattern of one of 4 classes in 6 frames, the class, and the
    middle of the pattern in frames."""
    patterns = 2 * torch.randn(4, 16, generator=torch.Generator().manual_seed(7)).abs()
    label = torch.randint(4, (count,), generator=generator)
    start = torch.randint(75, (count,), generator=generator)
    frames = torch.arange(80)
    inside = (frames >= start[:, None]) & (frames < start[:, None] + 6)
    noise = 0.5 * torch.randn(count, 80, 16, generator=generator)
    x = noise + inside[:, :, None] * patterns[label][:, None]
    return x.transpose(1, 2), label, start + 2.5


def test_paper_101_it_learns_where_the_pattern_is_from_labels_alone() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    head = MetaToken(16, 4)
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(300):
        x, label, _ = pattern_clips(32, generator)
        loss = nn.functional.cross_entropy(head(Chunk.of(x)).x[:, :, 0], label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, label, middle = pattern_clips(500, generator)
    c = Chunk.of(x)
    with torch.no_grad():
        assert torch.equal(head(c).x[:, :, 0].argmax(1), label)
        near = (head.place(c) - middle).abs() < 3
        assert float(near.float().mean()) >= 0.99
