"""How simple random nets are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from speechkit_probes.redshift import compressed, frequency

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


@pytest.mark.parametrize("cycles", [1, 2, 4])
def test_a_wave_has_its_frequency(cycles: int) -> None:
    # mirrored, cos π c t with t from 0 to 1 is a whole number of waves: c / 2 over the plane
    at = (torch.arange(64) + 0.5) / 64
    surface = torch.cos(2 * torch.pi * cycles * at)[:, None].expand(64, 64)
    assert frequency(surface) == pytest.approx(cycles)
    assert frequency(3 * surface.T + 5) == pytest.approx(cycles)
    assert frequency(torch.ones(8, 8)) == 0


def test_noise_takes_more_bytes_than_a_slope() -> None:
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    slope = torch.linspace(0, 1, 64)[:, None].expand(64, 64)
    assert compressed(noise) > 5 * compressed(slope)


def test_tanh_grows_with_its_weights_and_relu_does_not(
    nets: dict[str, Net], corpus: Corpus
) -> None:
    ratios = {}
    for name in "relu", "hardtanh":
        config = replace(nets["clip"], activation=name, norm="none")
        model = sk.build(config).eval()
        spec = "redshift:nets=3,grid=16,scales=1 8"
        ratios[name] = float(probe(model, [spec], Examples(model, corpus(4)))[spec]["ratio"])
    assert ratios["relu"] < 1.3
    assert ratios["hardtanh"] > 1.5


def test_it_is_found_for_each_scale(model: sk.Model, corpus: Corpus) -> None:
    spec = "redshift:nets=1,grid=4,scales=1 2 3"
    found = probe(model, [spec], Examples(model, corpus(2)))[spec]
    assert found["scale"].tolist() == [1, 2, 3]
    assert len(found["frequency"]) == len(found["bytes"]) == 3


@pytest.mark.parametrize("values", ["nets=0", "grid=3", "scales=0", "scales=x", "scales=1 -1"])
def test_bad_parameters_are_refused(values: str, model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give at least 1 net"):
        probe(model, [f"redshift:{values}"], Examples(model, corpus(2)))


def test_one_utterance_is_refused(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give at least 2"):
        probe(model, ["redshift"], Examples(model, corpus(1)))
