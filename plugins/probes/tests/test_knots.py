"""Knots along the axis of an SNR."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe
from speechkit.probes.codes import codes_between

Corpus = Callable[..., Path]


def test_a_neuron_switches_at_its_own_point() -> None:
    generator = torch.Generator().manual_seed(0)
    w, b = torch.randn(2, 200, generator=generator).double()
    at, bits = codes_between(lambda t: (8 * t - 4)[:, None] * w + b > 0, 101, 24)
    steps = (bits[1:] != bits[:-1]).sum(1)
    inside = (-b / w).abs() < 4
    assert steps.sum() == inside.sum()
    assert steps.max() == 1
    found = (8 * at - 4)[1:][steps > 0]
    expected = (-b / w)[inside].sort().values
    torch.testing.assert_close(found, expected, atol=0.09, rtol=0)


def test_without_a_change_there_is_no_knot(model: sk.Model, corpus: Corpus) -> None:
    spec = "knots_1d:low_db=200,high_db=220,points=5,clips=2"
    found = probe(model, [spec], Examples(model, corpus(3)))[spec]
    assert torch.all(found["knots"] < 0.01)
    assert found["snr_db"].tolist() == [202.5, 207.5, 212.5, 217.5]
    torch.testing.assert_close(found["score"], found["score"][:1].expand(5), atol=1e-3, rtol=0)


def test_noise_switches_units(model: sk.Model, corpus: Corpus) -> None:
    found = probe(model, ["knots_1d"], Examples(model, corpus(3)))["knots_1d"]
    assert len(found["knots"]) == 40
    assert found["knots"].mean() > 1e-4
    turns = found["turns"]
    assert turns == pytest.approx(int(3 * turns + 0.5) / 3), "a mean over 3 recordings"


def test_the_noise_has_its_level_and_turns_are_counted(
    nets: dict[str, Net], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sk.build(nets["clip"], 1).eval()
    levels = []
    features = sk.Model.features

    def keep(self: sk.Model, audio: torch.Tensor) -> Any:
        levels.append(audio - Examples(model, manifest).clips(1)[0])
        return features(self, audio)

    scores = torch.tensor([0.0, 2, 1, 3, 4])
    manifest = corpus(1)
    monkeypatch.setattr(sk.Model, "features", keep)
    monkeypatch.setattr("speechkit_probes.knots.target", lambda *_: scores)
    spec = "knots_1d:low_db=-20,high_db=20,points=5,clips=1"
    found = probe(model, [spec], Examples(model, manifest))[spec]
    steps = 20 * levels[0].square().mean(1).sqrt().log10().diff()
    torch.testing.assert_close(steps, torch.full((4,), -10.0), atol=0.01, rtol=0)
    assert found["turns"] == 2, "up, down, up, up"


@pytest.mark.parametrize("values", ["low_db=30", "points=1", "clips=0"])
def test_bad_parameters_are_refused(values: str, model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give low_db below high_db"):
        probe(model, [f"knots_1d:{values}"], Examples(model, corpus(2)))
