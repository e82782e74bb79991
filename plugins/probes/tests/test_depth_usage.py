"""What residual blocks add, and what happens without them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_probes.depth_usage import without_body

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe
from speechkit.probes.flows import residuals

Corpus = Callable[..., Path]


def test_a_body_of_0_adds_nothing_and_changes_nothing(model: sk.Model, corpus: Corpus) -> None:
    norm: Any = model.get_submodule("encoder.1.sum.body.2.norm")
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.zeros_(norm.bias)
    found = probe(model, ["depth_usage"], Examples(model, corpus()))["depth_usage"]
    assert found["contribution"][1] == found["cosine"][1] == found["effect"][1] == 0
    assert torch.all(found["skip"][1] == 0)
    assert found["skip"][0, 1:].min() == 0, "block 1 stays 0 whatever block 0 does"
    assert found["skip"][0, 2] > 0
    assert torch.all(found["skip"].tril() == 0), "only later blocks can change"


def test_a_body_that_removes_the_shortcut_has_the_cosine_minus_1(
    nets: dict[str, Net], corpus: Corpus
) -> None:
    model = sk.build(replace(nets["clip"], norm="none"), 1).eval()
    block: Any = model.get_submodule("encoder.0.sum")
    body: Any = block.body[0]
    with torch.no_grad():
        # a body of one 1×1 layer: the taps of its filters but the middle one are 0
        for part in block.body:
            if hasattr(part, "mixer"):
                part.mixer.weight.zero_()
                part.mixer.weight[:, :, part.mixer.left] = 1
        block.shortcut.channel.weight.copy_(torch.eye(8))
        body.channel.weight.copy_(torch.eye(8))
        block.body[2].channel.weight.copy_(-2 * torch.eye(8))
    found = probe(model, ["depth_usage"], Examples(model, corpus()))["depth_usage"]
    # the input is not below 0, behind the stem's ReLU
    assert found["cosine"][0] == pytest.approx(-1, abs=1e-6)
    assert found["contribution"][0] == pytest.approx(2, abs=1e-5)


def test_without_a_body_the_block_is_a_skip(model: sk.Model, corpus: Corpus) -> None:
    rows = list(model.config.rows())
    rows[2] = replace(rows[2][0], block="skip", repeat=1), rows[2][1]
    blocks, aheads = zip(*rows, strict=True)
    shorter = sk.build(replace(model.config, size="custom", blocks=blocks, lookahead=aheads)).eval()
    weights = {
        name.replace("encoder.1.sum.shortcut", "encoder.1.shortcut"): x
        for name, x in model.state_dict().items()
        if not name.startswith("encoder.1.sum.body")
    }
    shorter.load_state_dict(weights)
    for _, features in Examples(model, corpus()):
        with torch.no_grad(), without_body(residuals(model)["1"]):
            expected = model.score(features).scores
        torch.testing.assert_close(shorter.score(features).scores, expected, atol=1e-6, rtol=0)


def test_the_effect_is_that_of_the_largest_change(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["ctc"], 1).eval()
    examples = Examples(model, corpus(4), batch_size=2)
    found = probe(model, ["depth_usage"], examples)["depth_usage"]
    changes = []
    for clip in examples.clips(4):
        with torch.no_grad():
            plain = model(clip[None])
            with without_body(residuals(model)["2"]):
                other = model(clip[None])
        change = (plain.scores.softmax(-1) - other.scores.softmax(-1)).norm(dim=-1)
        changes.append(change.max())
    assert found["effect"][2] == pytest.approx(float(torch.stack(changes).mean()), rel=1e-4)


def test_a_net_without_residual_blocks_is_refused(corpus: Corpus, nets: dict[str, Net]) -> None:
    rows = (sk.Block(channels=8, kernel=3), sk.Block(channels=8, kernel=3))
    model = sk.build(replace(nets["clip"], size="custom", blocks=rows)).eval()
    with pytest.raises(ComponentError, match="give one with residual blocks"):
        probe(model, ["depth_usage"], Examples(model, corpus(2)))
