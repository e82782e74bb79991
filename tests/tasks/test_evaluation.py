"""Figures of a model on a manifest."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechkit.data import read_manifest
from speechkit.errors import AudioError
from speechkit.models import Model, Net, Output, build
from speechkit.tasks.evaluation import evaluate

Corpus = Callable[..., Path]


def always(net: Net, scores: Tensor) -> Model:
    """A model with the same scores for all audio."""
    model = build(net)

    def forward(audio: Tensor, lengths: Tensor) -> Output:
        rows = scores.expand(len(audio), *scores.shape)
        return Output(rows, torch.full((len(audio),), rows.shape[1]))

    model.forward = forward  # type: ignore[method-assign, assignment]
    return model


def test_accuracy_is_the_share_of_right_labels(nets: dict[str, Net], corpus: Corpus) -> None:
    # of five tones three are high
    always_high = always(nets["clip"], torch.tensor([0.0, 1.0]))
    assert evaluate(always_high, corpus(5)) == {"n": 5, "accuracy": 0.6}


def test_error_rates_count_words_and_characters(nets: dict[str, Net], corpus: Corpus) -> None:
    # the prediction is always "hi", where the references are "hi" twice and "lo" once
    scores = torch.nn.functional.one_hot(torch.tensor([1, 5, 2]), 6).float()
    metrics = evaluate(always(nets["ctc"], scores), corpus(3))
    assert metrics == pytest.approx({"n": 3, "wer": 1 / 3, "cer": 1 / 3})


def test_area_under_the_curve_ranks_frames(nets: dict[str, Net], corpus: Corpus) -> None:
    # speech starts at 0.1 s, which is frame 5; one silent frame of five ranks above all speech
    speech = torch.tensor([0.0, 0, 0, 0, 9] + [5.0] * 5)
    scores = torch.stack([torch.zeros(10), speech], dim=1)
    assert evaluate(always(nets["frame"], scores), corpus(2)) == {"n": 2, "auc": 0.8}


def test_a_manifest_may_be_a_path_or_utterances(nets: dict[str, Net], corpus: Corpus) -> None:
    model = build(nets["clip"])
    manifest = corpus(3)
    metrics = evaluate(model, manifest)
    assert metrics == evaluate(model, str(manifest)) == evaluate(model, read_manifest(manifest))


def test_batching_changes_nothing(net: Net, corpus: Corpus) -> None:
    model, manifest = build(net), corpus(5)
    metrics = evaluate(model, manifest, batch_size=1)
    assert evaluate(model, manifest, batch_size=5) == pytest.approx(metrics, abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(net: Net, corpus: Corpus, training: bool) -> None:
    model: Model = build(net).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, corpus(2))
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_model_is_left_as_it_was_after_an_error(nets: dict[str, Net], corpus: Corpus) -> None:
    model, utterances = build(nets["clip"]).train(), read_manifest(corpus(2))
    utterances[0].audio.write_bytes(b"")
    with pytest.raises(AudioError):
        evaluate(model, utterances)
    assert model.training
