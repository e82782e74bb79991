"""The neural tangent kernel."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from speechkit_probes.attribution import best, target
from speechkit_probes.ntk import alignment, gradients

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


def test_the_parts_add_up_to_the_kernel(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus(5))
    found = probe(model, ["ntk"], examples)["ntk"]
    assert found["kernel"].shape == (5, 5)
    parts = ["stem", *(f"encoder.{i}" for i in range(4)), "head"]
    assert sum(float(found[name]) for name in parts) == pytest.approx(1)
    torch.testing.assert_close(found["kernel"], found["kernel"].T)
    assert found["condition"] == found["spectrum"].max() / found["spectrum"].min() > 1
    assert found["spectrum"].sum() == pytest.approx(found["kernel"].trace().item())
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0)).tolist()
    rows = torch.cat(list(gradients(model, examples, order).values()), 1)
    torch.testing.assert_close(found["kernel"], rows @ rows.T)
    assert torch.linalg.eigvalsh(found["kernel"]).min() > -1e-6 * found["spectrum"][0]


def test_a_small_step_changes_the_scores_as_the_kernel_says(
    nets: dict[str, Net], corpus: Corpus
) -> None:
    model = sk.build(nets["clip"], 1).eval()
    examples = Examples(model, corpus(4), batch_size=1)
    kernel = torch.zeros(4, 4).double()
    rows = gradients(model, examples, [0, 1, 2, 3])
    for row in rows.values():
        kernel += row @ row.T
    inputs = {batch.indices[0]: features for batch, features in examples}

    def scores() -> torch.Tensor:
        with torch.no_grad():
            each = [model.score(inputs[i]) for i in range(4)]
            return torch.stack([o.scores[0, labels[i]] for i, o in enumerate(each)]).double()

    labels = [int(best(model, model.score(inputs[i]))[0]) for i in range(4)]
    before, rate = scores(), 1e-4
    model.zero_grad()
    output = model.score(inputs[2])
    target(output, best(model, output)).sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(rate * p.grad)
    torch.testing.assert_close(scores() - before, -rate * kernel[:, 2], rtol=0.05, atol=2e-6)


def test_alignment_does_not_see_a_constant() -> None:
    y = torch.tensor([1.0, 1, 0, 0]).double()
    equal = (y[:, None] == y).double()
    assert alignment(3 * equal + 2, equal) == pytest.approx(1)
    assert alignment(-equal, equal) == pytest.approx(-1)


def test_labels_give_an_alignment(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["clip"], 1).eval()
    found = probe(model, ["ntk:utterances=4"], Examples(model, corpus(6)))["ntk:utterances=4"]
    assert found["kernel"].shape == (4, 4)
    assert -1 <= found["alignment"] <= 1


def test_two_utterances_are_needed(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="utterances=1; give at least 2"):
        probe(model, ["ntk:utterances=1"], Examples(model, corpus(2)))
    with pytest.raises(ComponentError, match="1 utterance; give at least 2"):
        probe(model, ["ntk"], Examples(model, corpus(1)))
