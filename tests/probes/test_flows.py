"""What flows through residual blocks."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.probes import Examples
from speechkit.probes.flows import flows

Corpus = Callable[..., Path]


def test_a_block_activates_the_sum_of_its_branches(nets: dict[str, Any], corpus: Corpus) -> None:
    model = sk.build(nets["clip"], 1).eval()
    examples = Examples(model, corpus(5), batch_size=2)
    batches = list(flows(model, examples))
    assert len(batches) == 3
    for blocks in batches:
        assert [flow.block for flow in blocks] == list(range(len(model.encoder)))
        for flow, after in pairwise(blocks):
            assert torch.equal(flow.y, after.x)
        residual = [flow for flow in blocks if flow.skip is not None]
        assert residual
        for flow in residual:
            torch.testing.assert_close(flow.y, torch.relu(flow.skip + flow.body))


def test_padding_is_left_out(nets: dict[str, Any], corpus: Corpus) -> None:
    model = sk.build(replace(nets["clip"], activation="silu"), 1).eval()
    manifest = corpus(5)
    together, alone = (
        torch.cat(
            [blocks[-1].y for blocks in flows(model, Examples(model, manifest, batch_size=n))]
        )
        for n in (5, 1)
    )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_model_is_in_evaluation_and_its_mode_stays(
    nets: dict[str, Any], corpus: Corpus
) -> None:
    model = sk.build(nets["clip"], 1).train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    assert len(list(flows(model, Examples(model, corpus(3))))) == 1
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_another_stack_is_one_line(nets: dict[str, Any], corpus: Corpus, other_stack: str) -> None:
    model = sk.build(replace(nets["clip"], stack=other_stack), 1).eval()
    with pytest.raises(ConfigError, match="stack=two do not follow each other; give a model"):
        next(flows(model, Examples(model, corpus(3))))
