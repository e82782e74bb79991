"""Gradients of a score, and other rules for the backward pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from speechkit_probes.attribution import (
    attribution,
    backward,
    baseline,
    best,
    excitation,
    identity,
    target,
    without,
)

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net, Output
from speechkit.nn import Chunk
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


@pytest.fixture
def features() -> Chunk:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 30, generator=generator)
    return Chunk.of(x, torch.tensor([30, 21]))


def labels_of(model: sk.Model, features: Chunk) -> torch.Tensor:
    with torch.no_grad():
        return best(model, model.score(features))


def test_the_forward_pass_keeps_its_bits(model: sk.Model, features: Chunk) -> None:
    plain = model.score(features).scores
    for rule in (excitation(0.3), identity):
        with backward(model, rule):
            assert torch.equal(model.score(features).scores, plain)
    assert torch.equal(model.score(features).scores, plain)


def test_padding_gets_nothing(model: sk.Model, features: Chunk) -> None:
    labels = labels_of(model, features)
    whole = attribution(model, features, labels, excitation(0.3))
    assert torch.all(whole[1, :, 21:] == 0)
    alone = Chunk.of(features.x[1:, :, :21])
    short = labels[1:] if labels.ndim == 1 else labels[1:, : (21 + 1) // 2]
    apart = attribution(model, alone, short, excitation(0.3))
    torch.testing.assert_close(whole[1:, :, :21], apart, atol=1e-5, rtol=1e-4)


def test_a_cold_excitation_is_the_gradient(model: sk.Model, features: Chunk) -> None:
    labels = labels_of(model, features)
    plain = attribution(model, features, labels)
    cold = attribution(model, features, labels, excitation(1e-6))
    torch.testing.assert_close(cold, plain, atol=1e-5, rtol=1e-4)


def test_a_hot_excitation_halves_each_activation(nets: dict[str, Net], features: Chunk) -> None:
    model = sk.build(replace(nets["clip"], dropout=0.0), 1).eval()
    labels = labels_of(model, features)
    hot = attribution(model, features, labels, excitation(1e9))
    half = attribution(model, features, labels, lambda z, y: torch.full_like(z, 0.5))
    torch.testing.assert_close(hot, half)
    plain = attribution(model, features, labels)
    assert (hot - plain).norm() > 0.1 * plain.norm()


def test_the_identity_rule_is_the_gradient_for_relu(model: sk.Model, features: Chunk) -> None:
    labels = labels_of(model, features)
    plain = attribution(model, features, labels)
    ruled = attribution(model, features, labels, identity)
    torch.testing.assert_close(ruled, plain, atol=1e-5, rtol=1e-3)


def test_the_identity_rule_keeps_the_sum(nets: dict[str, Net], features: Chunk) -> None:
    # without norms and biases the score is the sum of x · gradient
    config = replace(nets["clip"], activation="silu", norm="none")
    model = sk.build(config, 1).eval()
    for name, bias in model.named_parameters():
        if name.endswith("bias"):
            bias.data.zero_()
    labels = labels_of(model, features)
    x = features.masked.requires_grad_()
    with backward(model, identity):
        score = target(model.score(Chunk(x, features.valid)), labels)
        (gradient,) = torch.autograd.grad(score.sum(), x)
    torch.testing.assert_close((gradient * x).sum((1, 2)), score, atol=1e-6, rtol=2e-3)
    plain = torch.autograd.grad(target(model.score(Chunk(x, features.valid)), labels).sum(), x)[0]
    assert ((plain * x).sum((1, 2)) - score).abs().max() > 0.02 * score.abs().max()


def test_the_highest_share_takes_its_mean(features: Chunk) -> None:
    ranks = torch.zeros_like(features.x)
    ranks[:, 3, 5] = 2
    ranks[:, 3, 25] = 1
    changed = without(features, ranks, 1 / (16 * 21))
    mean = baseline(features)
    assert changed.x[1, 3, 5] == mean[1, 3, 0]
    assert (changed.x[1] != features.masked[1]).sum() == 1, "frame 25 is padding"
    assert (changed.x[0] != features.masked[0]).sum() == 1


def test_what_the_score_depends_on_is_found(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["clip"], 1).eval()
    found = probe(model, ["excitation_pullback"], Examples(model, corpus(6)))["excitation_pullback"]
    assert found["gradient"] > found["random"]
    assert found["pullback"] > found["random"]
    assert found["over_random"] > 0.5


@pytest.mark.parametrize("values", ["temperature=0", "share=0", "share=1"])
def test_bad_parameters_are_refused(values: str, model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give a temperature above 0"):
        probe(model, [f"excitation_pullback:{values}"], Examples(model, corpus(2)))


def test_frames_of_the_blank_and_padding_have_no_label(nets: dict[str, Net]) -> None:
    model = sk.build(nets["ctc"], 1).eval()
    scores = torch.zeros(2, 4, 6)
    scores[0, :, 5] = scores[1, :2, 5] = 1
    scores[1, 1, 2] = 3
    scores[1, 3, 1] = 2
    output = Output(scores, torch.tensor([4, 3]))
    labels = best(model, output)
    assert labels.tolist() == [[5, 5, 5, 5], [-1, 2, 0, -1]], "a row of blanks keeps them"
    assert target(output, labels).tolist() == [1, 1.5]


def test_the_shares_say_where_the_pullback_loses_more(
    nets: dict[str, Net], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of each utterance the score before and after, for the three rankings
    scores = [(9.0, 4.0), (9.0, 8.0), (9.0, 3.0)]
    values = [torch.full((3,), x) for pair in scores for x in pair]
    name = "speechkit_probes.excitation_pullback.target"
    monkeypatch.setattr(name, lambda *_: values.pop(0))
    model = sk.build(nets["clip"], 1).eval()
    found = probe(model, ["excitation_pullback"], Examples(model, corpus(3)))["excitation_pullback"]
    assert [float(x) for x in found.values()] == [5, 1, 6, 1, 0]
    assert list(found)[3:] == ["over_gradient", "over_random"]
