"""Two models under the same probes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError, ManifestError
from speechkit.models import Model
from speechkit.plugins import Registry, registry, using
from speechkit.probes import Examples
from speechkit.probes.comparison import compare, difference_of

Corpus = Callable[..., Path]


def level() -> Any:
    """The mean of the features, plus the head's first bias."""

    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        with torch.no_grad():
            values = torch.cat([c.x.transpose(1, 2)[c.valid] for _, c in examples])
        bias = next(p for name, p in model.head.named_parameters() if name.endswith("bias"))
        return {
            "mean": values.mean() + bias[0],
            "nowhere": torch.tensor(torch.nan),
            "vector": values.mean(0),
        }

    return look


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    mine = [sk.Component(name="level", factory=level, summary="One")]
    registry = Registry({"SPEECHKIT_PLUGINS": ""})
    registry.add(SimpleNamespace(speechkit_probes=sk.hookimpl(lambda: mine)), "lab")
    with using(registry):
        yield


def test_the_difference_is_paired(nets: dict[str, Any], corpus: Corpus) -> None:
    one, other = (sk.build(nets["clip"], 1).eval() for _ in range(2))
    for name, bias in other.head.named_parameters():
        if name.endswith("bias"):
            bias.data += 0.25
    found = compare(one, other, ["level"], Examples(one, corpus(9)))
    assert list(found["level"]) == ["mean"], "only scalars that are finite"
    difference = found["level"]["mean"]
    assert difference.difference == pytest.approx(0.25, abs=1e-5)
    assert difference.other - difference.model == pytest.approx(0.25, abs=1e-5)
    assert difference.low == pytest.approx(0.25, abs=1e-5), "the parts differ, their pairs do not"
    assert difference.high == pytest.approx(0.25, abs=1e-5)


def test_the_interval_is_that_of_student() -> None:
    found = difference_of([(0.0, 1.0), (0.0, 2.0), (1.0, torch.inf), (0.0, 6.0)])
    assert found is not None
    # mean 3, standard deviation sqrt(7), 2 degrees of freedom
    reach = 4.303 * (7 / 3) ** 0.5
    assert (found.model, found.other, found.difference) == (0.0, 3.0, 3.0)
    assert found.low == pytest.approx(3 - reach)
    assert found.high == pytest.approx(3 + reach)
    alone = difference_of([(1.0, 3.0)])
    assert alone is not None
    assert (alone.difference, alone.low, alone.high) == (2.0, None, None)


def test_one_utterance_cannot_be_compared(nets: dict[str, Any], corpus: Corpus) -> None:
    model = sk.build(nets["clip"], 1).eval()
    with pytest.raises(ManifestError, match="needs at least 2"):
        compare(model, model, ["level"], Examples(model, corpus(1)))


def test_a_number_of_some_parts_is_compared_and_small_parts_are_named(
    nets: dict[str, Any], corpus: Corpus
) -> None:
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        if len(examples.utterances) < 2:
            raise ComponentError("probe few: 1 utterance; give at least 2")
        return {"loud": torch.tensor(1.0)} if examples.utterances[0].label == "low" else {}

    few = sk.Component(name="few", factory=lambda: look, summary="One")
    registry().add(SimpleNamespace(speechkit_probes=sk.hookimpl(lambda: [few])), "more")
    model = sk.build(nets["clip"], 1).eval()
    found = compare(model, model, ["few"], Examples(model, corpus(16)))
    assert list(found["few"]) == ["loud"]
    with pytest.raises(ComponentError, match="measures 8 parts of the utterances, this one of 1:"):
        compare(model, model, ["few"], Examples(model, corpus(8)))
