"""Losses against enumeration, torch on single utterances, and hand counts."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from speechkit.errors import TrainingError
from speechkit.train.losses import CTC, CrossEntropy, FrameCrossEntropy, Nothing

Loss = CTC | CrossEntropy | FrameCrossEntropy
NONE = torch.tensor([])


def log_probs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def ctc_by_enumeration(scores: torch.Tensor, target: list[int]) -> float:
    """−log of the summed probability of every path that collapses to `target`."""
    frames, symbols = scores.shape
    total = 0.0
    for path in itertools.product(range(symbols), repeat=frames):
        if [k for k, _ in itertools.groupby(path) if k != symbols - 1] == target:
            total += math.exp(sum(scores[t, k].item() for t, k in enumerate(path)))
    return -math.log(total)


def test_ctc_sums_over_alignments_with_the_blank_last() -> None:
    scores = log_probs(2, 5, 3)
    targets = torch.tensor([[0, 0], [1, 7]])  # 7 is padding
    loss = CTC()(scores, torch.tensor([5, 4]), targets, torch.tensor([2, 1]))
    expected = [ctc_by_enumeration(scores[0], [0, 0]), ctc_by_enumeration(scores[1, :4], [1])]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_ctc_equals_torch_on_each_utterance() -> None:
    scores = log_probs(3, 20, 29)
    targets = torch.randint(0, 28, (3, 6), generator=torch.Generator().manual_seed(1))
    lengths, target_lengths = torch.tensor([20, 15, 12]), torch.tensor([6, 3, 0])
    loss = CTC()(scores, lengths, targets, target_lengths)
    for row, (n, s) in enumerate(zip(lengths.tolist(), target_lengths.tolist(), strict=True)):
        alone = F.ctc_loss(
            scores[row, :n],
            targets[row, :s],
            torch.tensor([n]),
            torch.tensor([s]),
            blank=28,
            reduction="sum",
        )
        assert loss[row].item() == pytest.approx(alone.item(), rel=1e-5)


def test_ctc_gives_zero_and_no_gradient_where_nothing_aligns() -> None:
    scores = log_probs(2, 4, 3).requires_grad_()
    targets = torch.tensor([[0, 0, 0], [0, 1, 0]])  # three equal labels need five frames
    loss = CTC()(scores, torch.tensor([4, 4]), targets, torch.tensor([3, 3]))
    loss.sum().backward()
    assert scores.grad is not None
    assert loss[0] == 0
    assert loss[1] > 0
    assert not scores.grad[0].any()
    assert scores.grad[1].any()


def test_without_a_text_every_frame_is_the_blank() -> None:
    scores = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    lengths, none = torch.tensor([6, 4]), torch.tensor([0, 0])
    expected = -torch.stack([scores[0, :, 3].sum(), scores[1, :4, 3].sum()])
    for width in (0, 2):
        targets = torch.zeros(2, width, dtype=torch.int64)
        assert CTC().possible(lengths, targets, none).all()
        torch.testing.assert_close(CTC()(scores, lengths, targets, none), expected)


@pytest.mark.parametrize("loss", [CTC(), CrossEntropy(), FrameCrossEntropy()])
def test_half_precision_scores_are_summed_in_float32(loss: Loss) -> None:
    ctc = isinstance(loss, CTC)
    scores = log_probs(2, 3) if isinstance(loss, CrossEntropy) else log_probs(2, 6, 3)
    targets = torch.tensor([0, 1] if scores.ndim == 2 else [[0, 1] * (1 if ctc else 3)] * 2)
    args = (torch.tensor([6, 6]), targets, torch.tensor([2, 2]))
    low = loss(scores.bfloat16(), *args)
    assert low.dtype == torch.float32
    assert torch.equal(low, loss(scores.bfloat16().float(), *args))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_formula(smoothing: float) -> None:
    scores = 3 * log_probs(4, 5, seed=2)
    targets = torch.tensor([0, 4, 2, 2])
    q = (1 - smoothing) * F.one_hot(targets, 5) + smoothing / 5
    expected = -(q * scores.log_softmax(-1)).sum(-1)
    loss = CrossEntropy(smoothing)(scores, NONE, targets, NONE)
    assert loss.shape == (4,)
    torch.testing.assert_close(loss, expected)


def test_smoothing_is_a_fraction() -> None:
    with pytest.raises(ValueError, match="smoothing 2"):
        CrossEntropy(smoothing=2)


def test_frame_cross_entropy_averages_valid_frames() -> None:
    scores = 3 * log_probs(3, 4, 2)
    targets = torch.tensor([[0, 1, 1, 0], [1, -100, 0, 1], [-100] * 4])
    loss = FrameCrossEntropy()(scores, torch.tensor([4, 3, 4]), targets, NONE)
    picked = -scores.log_softmax(-1)
    first = (picked[0, 0, 0] + picked[0, 1, 1] + picked[0, 2, 1] + picked[0, 3, 0]) / 4
    second = (picked[1, 0, 1] + picked[1, 2, 0]) / 2
    torch.testing.assert_close(loss, torch.stack([first, second, torch.tensor(0.0)]))


def test_padding_does_not_reach_the_frame_loss() -> None:
    scores = log_probs(1, 4, 2)
    scores[:, 2:] = float("nan")
    scores.requires_grad_()
    targets = torch.tensor([[0, 1, -100, -100]])
    loss = FrameCrossEntropy()(scores, torch.tensor([2]), targets, NONE)
    loss.sum().backward()
    assert scores.grad is not None
    assert loss.isfinite().all()
    assert scores.grad.isfinite().all()
    assert scores.grad[:, :2].any()


def test_frames_and_targets_must_agree() -> None:
    with pytest.raises(TrainingError, match="scores of 4 frames, targets of 3"):
        FrameCrossEntropy()(log_probs(1, 4, 2), torch.tensor([4]), torch.zeros(1, 3).long(), NONE)


@pytest.mark.parametrize("shape", [(2, 3), (2, 5, 3)])
def test_no_loss_is_0_with_a_gradient_of_0_whatever_padding_holds(shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    scores[0, -1], scores[1, -1] = math.nan, -math.inf
    scores.requires_grad_()
    losses = Nothing()(scores, NONE, NONE, NONE)
    losses.sum().backward()
    assert losses.tolist() == [0, 0]
    assert scores.grad is not None
    assert not scores.grad.any()
