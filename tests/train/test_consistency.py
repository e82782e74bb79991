"""Consistency: two views of each utterance, each trained towards the other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speechkit.data import collate
from speechkit.data.batch import Batch, Item
from speechkit.errors import TrainingError
from speechkit.models import Output
from speechkit.plugins import registry
from speechkit.train import Data, Run, fit
from speechkit.train.consistency import Consistency

FRAMES = 9


def views() -> tuple[Batch, Output]:
    """Two utterances with two views each, of which the second is three frames shorter."""
    items = [Item(torch.rand(160 * (2 + i)), torch.tensor([1, 2, 3]), i, f"{i}") for i in range(2)]
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, FRAMES, 5, generator=generator).log_softmax(2).requires_grad_()
    return collate(items).repeated(2), Output(scores, torch.tensor([9, 6, 9, 6]))


def test_each_view_is_trained_towards_the_other() -> None:
    batch, output = views()
    losses = Consistency(weight=0.5).extra_loss(batch, output)
    scores = output.scores.detach()
    for own, other in ((0, 2), (1, 3), (2, 0), (3, 1)):
        frames = int(output.lengths[own])
        divergence = torch.nn.functional.kl_div(
            scores[own, :frames], scores[other, :frames], log_target=True, reduction="sum"
        )
        torch.testing.assert_close(losses[own].detach(), 0.5 * divergence)


def test_the_other_view_gets_no_gradient() -> None:
    batch, output = views()
    losses = Consistency().extra_loss(batch, output)
    (gradient,) = torch.autograd.grad(losses[0], output.scores)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0


def test_views_that_agree_cost_nothing() -> None:
    batch, output = views()
    same = output.scores.detach()[:2].repeat(2, 1, 1)
    assert Consistency().extra_loss(batch, Output(same, output.lengths)).tolist() == [0] * 4


def test_views_of_two_lengths_are_refused() -> None:
    batch, output = views()
    stretched = Output(output.scores, torch.tensor([9, 6, 9, 7]))
    with pytest.raises(TrainingError, match="1: its two views have 6 and 7 frames; leave out"):
        Consistency().extra_loss(batch, stretched)


def test_a_run_reads_each_utterance_twice_with_masks_of_its_own(
    nets: dict[str, Any], corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[int], Tensor]] = []

    class Listening(Consistency):
        def extra_loss(self, batch: Batch, output: Output) -> Tensor:
            seen.append((batch.indices, output.scores.detach()))
            return super().extra_loss(batch, output)

    build = registry().build
    monkeypatch.setattr(
        registry(),
        "build",
        lambda kind, spec, *args: Listening() if kind == "method" else build(kind, spec, *args),
    )
    data = Data(train=corpus(4, "train"), dev=corpus(2, "dev"), batch_size=2)
    run = Run(
        model=nets["ctc"],
        data=data,
        steps=2,
        eval_every=2,
        save_every=2,
        augment=("spec_augment:freq_masks=2,freq_width=20",),
        method=("consistency",),
    )
    assert set(fit(run, tmp_path / "run", device="cpu")) == {"n", "wer", "cer"}
    assert len(seen) == 2
    for indices, scores in seen:
        assert len(scores) == 4
        assert indices[:2] == indices[2:]
        assert not torch.equal(scores[:2], scores[2:])
