"""How many random labels a net can learn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe
from speechkit.rules.spotting import Spotting

Corpus = Callable[..., Path]


def found(model: sk.Model, manifest: Path, values: str) -> dict[str, torch.Tensor]:
    spec = f"memorization:{values}"
    return probe(model, [spec], Examples(model, manifest))[spec]


def test_few_labels_are_learnt(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(replace(nets["clip"], norm="none"), 1).eval()
    seen = found(model, corpus(6), "counts=2 4 6 100,steps=200")
    assert seen["count"].tolist() == [2, 4, 6], "there are 6 recordings"
    assert seen["right"][0] == 1
    assert seen["largest"] >= 2
    weights = sum(p.numel() for p in model.parameters())
    assert seen["per_weight"] == pytest.approx(int(seen["largest"]) / weights)


def test_without_steps_to_learn_in_nothing_is_learnt(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["clip"], 1).eval()
    assert found(model, corpus(8), "counts=8,steps=1")["largest"] == 0


def test_rules_that_name_labels_are_left_out(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(replace(nets["clip"], spotting=Spotting(silent=("low",))), 1).eval()
    assert found(model, corpus(4), "counts=4,steps=1")["count"].tolist() == [4]


def test_scores_of_frames_are_refused(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["ctc"], 1).eval()
    with pytest.raises(ComponentError, match="give a classifier of clips"):
        found(model, corpus(4), "counts=4")


@pytest.mark.parametrize("values", ["counts=1", "counts=a", "steps=0", "classes=1", "rate=0"])
def test_bad_parameters_are_refused(values: str, nets: dict[str, Net], corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give counts and classes from 2"):
        found(sk.build(nets["clip"]).eval(), corpus(2), values)


def test_too_few_recordings_are_refused(nets: dict[str, Net], corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="3 recordings; give at least 4"):
        found(sk.build(nets["clip"]).eval(), corpus(3), "counts=4")


def test_the_last_step_counts(
    nets: dict[str, Net], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a: steps.append(1) or step(*a))  # type: ignore[func-returns-value]
    shares = []
    score = sk.Model.score
    monkeypatch.setattr(sk.Model, "score", lambda *a: shares.append(len(steps)) or score(*a))  # type: ignore[func-returns-value]
    found(sk.build(nets["clip"], 1).eval(), corpus(8), "counts=8,steps=3,rate=0.0001")
    assert shares == [0, 1, 2, 3], "the scores after the last step are looked at"
