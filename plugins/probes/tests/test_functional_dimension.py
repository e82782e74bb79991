"""How many weights the outputs can tell apart."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_probes.functional_dimension import rank_of
from torch import nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


def rank_of_net(change: Callable[[Any], None]) -> int:
    """The functional dimension of a net of 4 inputs, 8 ReLU units and one output."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        change(net)
    x = 3 * torch.randn(600, 4).double()
    rows = []
    for row in net(x)[:, 0]:
        parts = torch.autograd.grad(row, list(net.parameters()), retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return rank_of(torch.stack(rows))


def test_each_unit_has_a_scale_that_cancels() -> None:
    # 4·8 + 8 + 8 + 1 weights, and one scale for each of 8 units
    assert rank_of_net(lambda net: None) == 41


def test_a_unit_that_nothing_reads_loses_its_inputs() -> None:
    assert rank_of_net(lambda net: net[2].weight[:, 3].zero_()) == 37


def test_a_dead_unit_loses_all() -> None:
    assert rank_of_net(lambda net: net[0].bias[3].fill_(-1e3)) == 36


def test_a_linear_head_has_its_weights(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["ctc"], 1).eval()
    spec = "functional_dimension:rows=20"
    found = probe(model, [spec], Examples(model, corpus(6)))[spec]
    values = {name: int(x) for name, x in found.items()}
    on = torch.zeros(12, dtype=torch.bool)
    for _, features in Examples(model, corpus(6)):
        with torch.no_grad():
            on |= model.encoder(model.stem(features)).masked.amax((0, 2)) > 0
    alive = int(on.sum())
    assert 0 < alive < 12
    # the log-softmax of 6 scores does not see a shift of all of them
    rank = 5 * (alive + 1)
    assert values == {"weights": 78, "rank": rank, "deficit": 78 - rank, "enough": 1}
    assert next(model.parameters()).dtype == torch.float32


def test_a_part_without_or_with_too_many_weights_is_refused(
    model: sk.Model, corpus: Corpus
) -> None:
    with pytest.raises(ComponentError, match="part=nowhere has 0 weights"):
        probe(model, ["functional_dimension:part=nowhere"], Examples(model, corpus(2)))
    with pytest.raises(ComponentError, match="give at least 1"):
        probe(model, ["functional_dimension:rows=0"], Examples(model, corpus(2)))


def test_a_part_is_one_block_and_not_those_whose_number_begins_alike(
    nets: dict[str, Net], corpus: Corpus
) -> None:
    first, second, last = nets["clip"].blocks
    rows = (first, replace(second, copies=10), last)
    model = sk.build(replace(nets["clip"], blocks=rows), 1).eval()
    block: Any = model.get_submodule("encoder.1")
    block.requires_grad_(False)
    spec = "functional_dimension:part=encoder.1,rows=1"
    found = probe(model, [spec], Examples(model, corpus(2)))[spec]
    assert found["weights"] == sum(p.numel() for p in block.parameters())
