"""Knots along the axis of an SNR."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import speechkit as sk
from speechkit.errors import ComponentError
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
    assert found["turns"] >= 0


@pytest.mark.parametrize("values", ["low_db=30", "points=1", "clips=0"])
def test_bad_parameters_are_refused(values: str, model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give low_db below high_db"):
        probe(model, [f"knots_1d:{values}"], Examples(model, corpus(2)))
