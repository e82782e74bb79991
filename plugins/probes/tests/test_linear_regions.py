"""Linear pieces of nets."""

from collections.abc import Callable
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from speechkit_probes.linear_regions import _pieces, regions

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe
from speechkit.probes.codes import codes_between

Corpus = Callable[..., Path]


@pytest.mark.parametrize(
    ("inputs", "units", "expected"), [(1, 5, 6), (2, 5, 16), (2, 7, 29), (3, 6, 42)]
)
def test_one_layer_has_the_regions_of_its_hyperplanes(
    inputs: int, units: int, expected: int
) -> None:
    chance = np.random.default_rng(0)
    layer = chance.normal(size=(units, inputs)), chance.normal(size=units)
    assert expected == sum(comb(units, j) for j in range(inputs + 1))
    assert regions([layer]) == expected


def test_points_that_are_drawn_find_at_most_as_many() -> None:
    chance = np.random.default_rng(1)
    layers = [(chance.normal(size=(4, 2)), chance.normal(size=4)) for _ in range(1)]
    layers.append((chance.normal(size=(3, 4)), chance.normal(size=3)))
    x = chance.uniform(-20, 20, (40000, 2))
    seen = []
    for weight, bias in layers:
        z = x @ weight.T + bias
        seen.append(z > 0)
        x = np.maximum(z, 0)
    drawn = len(np.unique(np.concatenate(seen, 1), axis=0))
    assert 0.7 * regions(layers) < drawn <= regions(layers)


def test_too_many_units_are_refused() -> None:
    with pytest.raises(ComponentError, match="25 units; give at most 24"):
        regions([(np.zeros((25, 2)), np.zeros(25))])


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
def test_the_tent_map_has_a_piece_for_each_fold(times: int) -> None:
    def run(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bits, x = [], t
        for _ in range(times):
            bits += [2 * x > 0, 4 * x - 2 > 0]
            x = torch.relu(2 * x) - torch.relu(4 * x - 2)
        return torch.stack(bits, 1), x[:, None]

    at, found = codes_between(lambda t: run(t)[0], 130, 6)
    same = (found[1:] == found[:-1]).all(1)
    assert _pieces(at, same, run(at)[1]) == 2**times


def test_pieces_are_fewer_than_regions_and_regions_than_flips(
    model: sk.Model, corpus: Corpus
) -> None:
    spec = "linear_regions:pairs=2,points=17,depth=3"
    found = probe(model, [spec], Examples(model, corpus(4)))[spec]
    assert 1 <= found["pieces"] <= found["regions"] <= found["flips"] + 1
    assert found["regions"] > 5


def test_a_coarse_path_is_not_resolved(model: sk.Model, corpus: Corpus) -> None:
    specs = [f"linear_regions:pairs=1,points=2,depth={depth}" for depth in (0, 14)]
    found = probe(model, specs, Examples(model, corpus(2)))
    coarse, fine = (found[spec] for spec in specs)
    assert coarse["resolved"] == 0
    assert coarse["regions"] == 2
    assert fine["resolved"] > 0.9
    assert fine["regions"] > 10


def test_the_model_keeps_its_precision(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["clip"], 1).eval()
    probe(model, ["linear_regions:pairs=1,points=3,depth=0"], Examples(model, corpus(2)))
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("values", ["pairs=0", "points=1", "depth=-1"])
def test_bad_parameters_are_refused(values: str, model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give at least 1 pair"):
        probe(model, [f"linear_regions:{values}"], Examples(model, corpus(2)))


def test_one_utterance_is_refused(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give two utterances"):
        probe(model, ["linear_regions"], Examples(model, corpus(1)))
