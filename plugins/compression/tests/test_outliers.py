"""The probe finds channels that were made large, and tells what they cost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_compression.outliers import outlier_channels, rank_correlation, rounded

import speechkit as sk
from speechkit.ops.separable_conv import Shape, pack
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]
Wide = Callable[..., sk.Model]
LAYER = "stem.body.0.channel"


def test_paper_81_it_finds_the_planted_channels(wide: Wide, corpus: Corpus) -> None:
    plain, planted = wide(planted=False), wide()
    before, after = (outlier_channels()(m, Examples(m, corpus(4))) for m in (plain, planted))
    assert int(after[f"{LAYER}/outliers"]) == 2
    top = before[f"{LAYER}/largest"].clone()
    top[[3, 7]] *= torch.tensor([60.0, 40.0])
    torch.testing.assert_close(after[f"{LAYER}/largest"], top)
    assert after[f"{LAYER}/ratio"] == pytest.approx(float(top.max() / top.median()))
    assert int(before[f"{LAYER}/outliers"]) == 0


def test_paper_81_planted_channels_cost_more_in_each_form(wide: Wide, corpus: Corpus) -> None:
    plain, planted = wide(planted=False), wide()
    before, after = (outlier_channels()(m, Examples(m, corpus(4))) for m in (plain, planted))
    for kind in ("frame", "layer"):
        assert after[f"{LAYER}/{kind}_error"] > 4 * before[f"{LAYER}/{kind}_error"]
        # the layer that reads a block's output was not changed
        other = f"encoder.0.sum.shortcut.channel/{kind}_error"
        assert after[other] == pytest.approx(float(before[other]), rel=1e-3)


def test_paper_81_sixteen_bits_are_exact_to_a_thousandth(wide: Wide, corpus: Corpus) -> None:
    model = wide(planted=False)
    found = outlier_channels(bits=16)(model, Examples(model, corpus(2)))
    errors = [x for name, x in found.items() if name.endswith("_error")]
    assert len(errors) == 2 * 6
    assert 0 < max(errors) < 1e-3


def test_the_error_is_that_of_the_prepared_layer(wide: Wide, corpus: Corpus) -> None:
    model = wide()
    examples = Examples(model, corpus(2))
    found = outlier_channels()(model, examples)
    stem: Any = model.get_submodule("stem.body.0")
    shape = Shape(16, 64, precision="int8")
    packed = pack(shape, None, stem.channel.weight.detach(), torch.zeros(64))
    squares = torch.zeros(2)
    with torch.no_grad():
        for _, c in examples:
            x = stem.mixer(c)
            y, z = stem.channel(x).x, packed(x.x, x.valid)
            for i, part in enumerate((y - z, y)):
                squares[i] += part.transpose(1, 2)[x.valid].square().sum()
    expected = float((squares[0] / squares[1]).sqrt())
    assert found["stem.body.0.channel/frame_error"] == pytest.approx(expected, rel=1e-3)


def test_ranks_are_compared_not_values() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(x, torch.tensor([1.0, 9.0, 8.0, 1e6])) == pytest.approx(0.8)
    assert rank_correlation(x, -x) == pytest.approx(-1)
    assert rank_correlation(x[:1], x[:1]) == 0


def test_rounding_has_as_many_levels_as_bits_allow() -> None:
    x = torch.linspace(-1, 1, 100001)
    for bits, levels in ((2, 3), (4, 15), (8, 255)):
        assert len(rounded(x, torch.tensor(1.0), bits).unique()) == levels
    assert not rounded(x, torch.tensor(0.0), 8).any()


def test_it_has_a_name_and_checks_its_numbers(wide: Wide, corpus: Corpus) -> None:
    model = wide()
    found = probe(model, ["outlier_channels:ratio=100"], Examples(model, corpus(2)))
    assert int(found["outlier_channels:ratio=100"][f"{LAYER}/outliers"]) == 0
    with pytest.raises(sk.errors.ComponentError, match="ratio=1, bits=1; give a ratio above 1"):
        outlier_channels(ratio=1, bits=1)
