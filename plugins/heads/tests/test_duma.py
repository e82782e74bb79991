"""The head of spelt labels: its attention, its masks, and labels that it was never trained on."""

import math
from pathlib import Path

import pytest
import torch
from speechkit_heads.duma import Duma, relabel
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError, ConfigError
from speechkit.models import Net
from speechkit.nn import Chunk
from speechkit.testing import assert_close

LENGTHS = torch.tensor([12, 7])
NAMES = "a", "no", "on", "seven"


def made(names: tuple[str, ...] = NAMES, seed: int = 0) -> Duma:
    """A head whose weights are all random."""
    torch.manual_seed(seed)
    head = Duma(8, len(names), names, heads=2).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return head.requires_grad_(False)


@pytest.fixture
def chunk() -> Chunk:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 12, generator=generator, dtype=torch.float64)
    c = Chunk.of(x, LENGTHS)
    return Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid)


def read(head: Duma, q: Tensor, x: Tensor) -> Tensor:
    """What the rows q `[Q, C]` read of the rows x `[X, C]`, one head and one row at a time."""
    w = head.attend
    rows = []
    for query in q:
        parts = []
        for one in range(2):
            part = slice(4 * one, 4 * one + 4)
            scores = (x @ w.key.weight[part].T) @ (w.query.weight[part] @ query)
            parts.append((scores / math.sqrt(4)).softmax(0) @ (x @ w.value.weight[part].T))
        rows.append(w.out.weight @ torch.cat(parts))
    return torch.stack(rows)


def prompt(head: Duma, word: str) -> Tensor:
    """The letters of a word, `[L, C]`."""
    row = [0, *("abcdefghijklmnopqrstuvwxyz".index(x) + 1 for x in word), 0]
    own, before, after = head.letters
    places = range(1, len(row) - 1)
    y: Tensor = head.of_letters(
        torch.stack([own[row[t]] + before[row[t - 1]] + after[row[t + 1]] for t in places])
    )
    return y


def plain(head: Duma, word: str, x: Tensor) -> Tensor:
    """The score of one word for one utterance `[C, T]`, as in the formula."""
    p, q = head.of_frames(x.T), prompt(head, word)
    q = head.norm(q + read(head, q, p))
    p = head.norm(p + read(head, p, q))
    y: Tensor = head.weight @ (p.mean(0) * q.mean(0))
    return y


def test_paper_114_a_score_is_that_of_the_formula(chunk: Chunk) -> None:
    head = made()
    y = head(chunk)
    assert y.valid.all()
    assert y.x.shape == (2, 4, 1)
    for row, length in enumerate(LENGTHS.tolist()):
        for label, name in enumerate(NAMES):
            expected = plain(head, name, chunk.x[row, :, :length])
            assert_close(name, expected, y.x[row, label, 0], 1e-12)


def test_paper_114_a_prompt_of_one_token_is_attention_pooling(chunk: Chunk) -> None:
    head = made()
    frames = head.of_frames(chunk.masked.transpose(1, 2))[:, None]
    letters = head.prompts()[:1, :1]
    pooled = head.attend(letters, frames, chunk.valid[:, None, None, None])
    w, token = head.attend, letters[0, 0]
    # each half of the channels is a mean of the values, weighted by a fixed token's products
    for row, length in enumerate(LENGTHS.tolist()):
        p = frames[row, 0, :length]
        tokens = (w.key.weight.T * (w.query.weight @ token)).unflatten(1, (2, 4)).sum(2)
        weights = (p @ tokens / 2).softmax(0).repeat_interleave(4, 1)
        expected = w.out.weight @ (weights * (p @ w.value.weight.T)).sum(0)
        assert_close("pooled", expected, pooled[row, 0, 0], 1e-12)
    # the frames have one token to attend to, which they read whatever the products are
    read_back = head.attend(frames, letters[None], torch.ones(1, dtype=torch.bool))
    value = w.out.weight @ w.value.weight @ token
    assert_close("read back", value.expand_as(read_back), read_back, 1e-12)


def test_paper_114_padding_and_the_other_rows_change_nothing(chunk: Chunk) -> None:
    head = made()
    y = head(chunk).x
    alone = head(Chunk.of(chunk.x[1:, :, :7])).x
    assert_close("alone, without padding", alone[0], y[1], 1e-12)
    louder = Chunk(torch.where(chunk.valid[:, None], chunk.x, 1e6), chunk.valid)
    assert torch.equal(head(louder).x, y)


def test_a_score_does_not_depend_on_the_other_labels(chunk: Chunk) -> None:
    head, longer = made(), made(("seventeen", "on"))
    longer.load_state_dict(head.state_dict())
    assert_close("on", head(chunk).x[:, 2], longer(chunk).x[:, 1], 1e-12)


def test_paper_114_the_letters_attend_first(chunk: Chunk) -> None:
    head, x = made(), chunk.x[0]
    p, q = head.of_frames(x.T), prompt(head, "seven")
    p = head.norm(p + read(head, p, q))
    q = head.norm(q + read(head, q, p))
    swapped = head.weight @ (p.mean(0) * q.mean(0))
    assert abs(float(swapped - head(chunk).x[0, 3, 0])) > 1e-3


def test_the_order_of_letters_counts_once_the_neighbours_are_learned(chunk: Chunk) -> None:
    head = made()
    no, on = head(chunk).x[0, 1:3, 0]
    assert abs(float(no - on)) > 1e-3
    head.letters[1:].zero_()
    no, on = head(chunk).x[0, 1:3, 0]
    assert float(no) == pytest.approx(float(on))


def test_no_frame_gives_finite_scores() -> None:
    head = made()
    nothing = Chunk(torch.full((1, 8, 5), torch.nan).double(), torch.zeros(1, 5).bool())
    assert torch.isfinite(head(nothing).x).all()


def test_it_says_what_it_cannot_take() -> None:
    with pytest.raises(ComponentError, match="heads=3 for 8 channels; give a divisor of 8"):
        Duma(8, 1, ("a",), heads=3)
    with pytest.raises(ComponentError, match="'1' and '2' have the same letters"):
        Duma(8, 3, ("a", "1", "2"))
    with pytest.raises(ComponentError, match="'Go' and 'go' have the same letters"):
        Duma(8, 2, ("Go", "go"))


NETS: dict[str, Net] = {
    "matchboxnet": sk.MatchboxNet(size="3x1x64", labels=("no", "yes"), head="duma"),
    "marblenet": sk.MarbleNet(size="3x2x64", head="duma"),
}
AUDIO = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_saved_with_it(name: str, tmp_path: Path) -> None:
    model = sk.build(NETS[name]).eval()
    with torch.inference_mode():
        whole = model(AUDIO).scores
        sk.save(model, tmp_path / "model")
        assert torch.equal(sk.load(tmp_path / "model").eval()(AUDIO).scores, whole)


def test_relabel_scores_other_labels_with_the_same_weights(tmp_path: Path) -> None:
    model = sk.build(NETS["matchboxnet"]).eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    other, report = relabel("yes stop")(model, None)
    assert other.labels == ("yes", "stop")
    assert report == {"new": ["stop"]}
    assert model.labels == ("no", "yes")
    for name, x in other.state_dict().items():
        assert torch.equal(x, before[name])
    with torch.inference_mode():
        scores = other(AUDIO).scores
        assert_close("yes", model(AUDIO).scores[:, 1], scores[:, 0], 1e-5)
        sk.save(other, tmp_path / "other")
        assert torch.equal(sk.load(tmp_path / "other").eval()(AUDIO).scores, scores)
    assert sk.build(other.config).labels == other.labels


def test_relabel_refuses_another_head() -> None:
    model = sk.build(sk.MatchboxNet(size="1x1x16", labels=("no", "yes")))
    with pytest.raises(ConfigError, match="the head is clip; train a net with head=duma"):
        relabel("yes stop")(model, None)


def test_it_scores_words_that_it_was_never_trained_on_by_their_letters() -> None:
    # an artificial speech, in which each letter is 3 frames of its own pattern in noise
    sounds = 2 * torch.randn(6, 16, generator=torch.Generator().manual_seed(7))
    chance = torch.Generator().manual_seed(0)
    words = [f"{a}{b}" for a in "abcdef" for b in "abcdef" if a != b]
    held_out = "ac", "fb", "de"
    trained = tuple(word for word in words if word not in held_out and word[::-1] not in held_out)

    def clips(of: tuple[str, ...], count: int) -> tuple[Chunk, Tensor]:
        label = torch.randint(len(of), (count,), generator=chance)
        spelt = torch.tensor([["abcdef".index(x) for x in of[n]] for n in label.tolist()])
        x = sounds[spelt].repeat_interleave(3, 1)
        x = x + 0.5 * torch.randn(x.shape, generator=chance)
        return Chunk.of(x.transpose(1, 2)), label

    torch.manual_seed(0)
    head = Duma(16, len(trained), trained)
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    for _ in range(80):
        c, label = clips(trained, 32)
        # a word and its reverse sound alike to a head whose frames know no order
        scores = head(c).x[:, :, 0]
        reverse = torch.tensor([trained.index(trained[n][::-1]) for n in label.tolist()])
        scores = scores.scatter(1, reverse[:, None], -math.inf)
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores, label).backward()
        optimizer.step()
    unseen = Duma(16, 3, held_out)
    unseen.load_state_dict(head.state_dict())
    c, label = clips(held_out, 200)
    assert float((unseen(c).x[:, :, 0].argmax(1) == label).float().mean()) > 0.95
