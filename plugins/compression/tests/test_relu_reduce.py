"""A share of the ReLUs stays, those of the most critical stages."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_compression import relu_reduce
from speechkit_compression.relu_reduce import Point, Trials, criticality, fitting
from speechkit_compression.relu_surgery import activations, relus_per_frame

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.models import Net
from speechkit.nn import Chunk
from speechkit.probes import Examples
from speechkit.transforms import transform

Corpus = Callable[..., Path]
TOTAL = 8 + 3 * 16 + 12
"""The ReLUs of the tiny nets for each frame of scores, in three stages."""


def reduced(
    model: sk.Model, manifest: Path, params: str, seed: int = 0
) -> tuple[sk.Model, dict[str, Any]]:
    examples = Examples(model, manifest, batch_size=3, seed=seed)
    made, (applied,) = transform(model, [f"relu_reduce:{params}"], examples)
    return made, applied.report


def kept(model: sk.Model) -> list[int]:
    """The places that are ReLUs."""
    found = activations(model.config, "x")
    return [place for place, each in enumerate(found) if each.is_relu]


@pytest.mark.parametrize("budget", [0.9, 0.75, 0.3])
def test_paper_034_the_budget_is_kept(model: sk.Model, corpus: Corpus, budget: float) -> None:
    made, report = reduced(model, corpus(3), f"budget={budget},heal=1")
    count = relus_per_frame(activations(made.config, "x"))
    assert 0 < count <= budget * TOTAL
    assert report["relus_per_frame"] == [TOTAL, count]
    per_s = [round(TOTAL / model.frame_s), round(count / model.frame_s)]
    assert report["relus_per_s"] == per_s
    assert len(report["kept"]) == len(kept(made))


def test_paper_034_a_culled_stage_has_no_relu(model: sk.Model, corpus: Corpus) -> None:
    made, _ = reduced(model, corpus(2), f"budget={20 / TOTAL},steps=cull,heal=0")
    assert kept(made) == [0, 7], "the stages of 8 and 12; the one of 48 does not fit"


def test_paper_034_thinning_leaves_half_of_a_stage_rounded_up(
    model: sk.Model, corpus: Corpus
) -> None:
    made, _ = reduced(model, corpus(2), "budget=1,steps=thin,heal=0")
    assert kept(made) == [0, 1, 3, 5, 7], "of six every second one; one of one"
    odd = replace(model.config.blocks[1], repeat=3, copies=1)
    blocks = (model.config.blocks[0], odd, model.config.blocks[2])
    made, _ = reduced(
        sk.build(replace(model.config, blocks=blocks), 0).eval(),
        corpus(2),
        "budget=1,steps=thin,heal=0",
    )
    assert kept(made) == [0, 1, 3, 4], "two of three"


def test_paper_034_a_net_without_relus_is_affine(model: sk.Model, corpus: Corpus) -> None:
    made, _ = reduced(model, corpus(2), "budget=0,heal=1")
    if model.config.head.name == "ctc":
        # log-softmax after the logits is not affine
        made.head = made.head.linear
    chance = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 16, 40, generator=chance) for _ in range(2))

    def f(features: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return made.double().score(Chunk.of(features.double())).scores

    rest = f(x + y) - f(x) - f(y) + f(torch.zeros_like(x))
    assert rest.abs().max() < 1e-4 * f(x).abs().max()


def test_paper_034_the_criticality_is_its_formula(
    model: sk.Model, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {(): 0.2, (0,): 0.5, (1, 2, 3, 4, 5, 6): 0.9, (7,): 0.6}
    trials = Trials(model, Examples(model, corpus(2)), 0)
    monkeypatch.setattr(
        Trials, "__call__", lambda self, kept: (model, Point(self.relus(kept), scores[kept]))
    )
    found = criticality(trials, 0.07)
    assert found == pytest.approx({0: 0.3 / 8**0.07, 1: 0.7 / 48**0.07, 2: 0.4 / 12**0.07})


def test_paper_034_the_most_critical_stages_stay(
    model: sk.Model, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ranks, budget, wanted in (
        ({0: 0.1, 1: 0.5, 2: 0.9}, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({0: 0.1, 1: 0.5, 2: 0.9}, 60 / TOTAL, [1, 2, 3, 4, 5, 6, 7]),
        ({0: 0.9, 1: 0.5, 2: 0.1}, 60 / TOTAL, [0, 1, 2, 3, 4, 5, 6]),
        ({0: 0.1, 1: 0.5, 2: 0.9}, 12 / TOTAL, [7]),
        ({0: 0.9, 1: 0.5, 2: 0.1}, 12 / TOTAL, [0]),
    ):
        monkeypatch.setattr(relu_reduce, "criticality", lambda *_, ranks=ranks: ranks)
        made, _ = reduced(model, corpus(2), f"budget={budget},steps=cull,heal=0")
        assert kept(made) == wanted


def test_paper_034_the_better_of_whole_and_thin_stages_is_kept(
    model: sk.Model, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relu_reduce, "criticality", lambda *_: {0: 0.2, 1: 0.9, 2: 0.1})
    params = f"budget={48 / TOTAL},heal=0"
    nets = {}
    for step in ("cull", "thin"):
        made, report = reduced(model, corpus(3), f"{params},steps={step}")
        nets[step] = report["agreement"], kept(made)
    assert nets["cull"][1] == [1, 2, 3, 4, 5, 6]
    assert nets["thin"][1] == [0, 1, 3, 5, 7]
    made, _ = reduced(model, corpus(3), params)
    assert kept(made) == max(nets.values(), key=lambda net: net[0])[1]


def test_paper_034_the_pareto_list_is_sorted_and_nothing_in_it_is_beaten(
    model: sk.Model, corpus: Corpus
) -> None:
    _, report = reduced(model, corpus(3), "budget=0.5,heal=1")
    front = [(point["relus_per_frame"], point["agreement"]) for point in report["pareto"]]
    assert front == sorted(set(front))
    assert [agreement for _, agreement in front] == sorted({a for _, a in front})
    assert front[-1][1] == 1.0


def test_a_random_order_is_drawn_by_the_seed(model: sk.Model, corpus: Corpus) -> None:
    params = f"budget={12 / TOTAL},steps=cull,rank=random,heal=0"
    nets = [kept(reduced(model, corpus(2), params, seed)[0]) for seed in range(6)]
    assert {tuple(net) for net in nets} == {(0,), (7,)}
    _, report = reduced(model, corpus(2), params)
    assert report["criticality"] is None


def test_a_stage_is_skipped_if_it_does_not_fit(model: sk.Model, corpus: Corpus) -> None:
    trials = Trials(model, Examples(model, corpus(2)), 0)
    whole = [trials.stage(k) for k in (1, 2, 0)]
    assert fitting(whole, trials, 20) == (0, 7)
    assert fitting(whole, trials, 55) == (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("net", ["clip"], indirect=True)
def test_what_cannot_be_reduced_is_one_line(model: sk.Model, corpus: Corpus, net: Net) -> None:
    manifest = corpus(2)
    for params, says in (
        ("budget=2", "budget=2; give a share from 0 to 1"),
        ("budget=0.5,steps=prune", "steps='prune'; give cull, thin or both"),
        ("budget=0.5,heal=-1", "heal=-1; give at least 0"),
        ("budget=0.5,rank=best", "rank=best; give one of criticality, random"),
    ):
        with pytest.raises(ConfigError, match=f"relu_reduce: {says}"):
            reduced(model, manifest, params)
    with pytest.raises(ConfigError, match="relu_reduce needs recordings; give --manifest M"):
        transform(model, ["relu_reduce:budget=0.5"])
    smooth = sk.build(replace(net, activation="silu"), 0).eval()
    with pytest.raises(ConfigError, match="relu_reduce: no activation of the net is relu"):
        reduced(smooth, manifest, "budget=0.5")
