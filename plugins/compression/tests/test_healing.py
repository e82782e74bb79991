"""Healing trains a model towards the scores of another."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from speechkit_compression.healing import divergence, heal

import speechkit as sk
from speechkit.models import Net
from speechkit.probes import Examples

Corpus = Callable[..., Path]


def test_the_divergence_of_a_model_from_itself_is_0(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus(3), batch_size=3)
    for _, features in examples:
        output = model.score(features)
        assert divergence(output, output).abs().max() < 1e-12


def test_padding_does_not_change_the_divergence(net: Net, corpus: Corpus) -> None:
    one, other = (sk.build(net, seed).eval() for seed in (0, 1))
    manifest = corpus(4)

    def each(size: int) -> torch.Tensor:
        examples = Examples(one, manifest, batch_size=size)
        parts = [divergence(one.score(c), other.score(c)) for _, c in examples]
        return torch.cat(parts).detach()

    torch.testing.assert_close(each(4), each(1), atol=1e-5, rtol=1e-4)
    assert each(4).min() > 0


def test_healing_brings_the_student_to_the_teacher(net: Net, corpus: Corpus) -> None:
    teacher, student = (sk.build(net, seed).eval() for seed in (0, 1))
    examples = Examples(teacher, corpus(6), batch_size=3)
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    losses = heal(student, teacher, examples, steps=30)
    assert len(losses) == 30
    assert losses[-1] < 0.7 * losses[0]
    assert not student.training
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())


def test_no_step_changes_nothing(net: Net, corpus: Corpus) -> None:
    teacher, student = (sk.build(net, seed).eval() for seed in (0, 1))
    before = {name: x.clone() for name, x in student.state_dict().items()}
    assert heal(student, teacher, Examples(teacher, corpus(2)), steps=0) == []
    assert all(torch.equal(x, before[name]) for name, x in student.state_dict().items())


def test_a_loss_that_is_not_finite_ends_it(net: Net, corpus: Corpus) -> None:
    teacher, student = (sk.build(net, seed).eval() for seed in (0, 1))
    with torch.no_grad():
        next(student.head.parameters()).fill_(float("nan"))
    with pytest.raises(sk.errors.TrainingError, match="healing: the loss is nan at step 1"):
        heal(student, teacher, Examples(teacher, corpus(2)), steps=2)
