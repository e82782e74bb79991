"""A net is merged to a share of its time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_compression import layer_merge
from speechkit_compression.layer_merge import LayerMerge
from speechkit_compression.merging import merged
from speechkit_compression.segments import Segment, segments, sub_blocks, unchanged

import speechkit as sk
from speechkit.models import Net
from speechkit.nn import describes
from speechkit.probes import Examples
from speechkit.transforms import transform

Corpus = Callable[..., Path]
ROWS = (
    sk.Block(channels=8, kernel=5),
    sk.Block(channels=8, kernel=5, repeat=2, residual=True, copies=2),
    sk.Block(channels=12, kernel=1, separable=False),
)


def model_of(**changes: Any) -> sk.Model:
    net = sk.MatchboxNet(labels=("low", "high"), blocks=ROWS, frontend="log_mel:n_mels=16")
    return sk.build(replace(net, **changes), 1).eval()


def macs(model: sk.Model) -> int:
    """The multiply-adds of stem and encoder for a frame."""
    layers: Any = [*model.stem.modules(), *model.encoder.modules()]
    return sum(layer.macs(1) for layer in layers if describes(layer, "macs"))


def test_it_makes_a_model_for_every_task(model: sk.Model, corpus: Corpus) -> None:
    spec = "layer_merge:budget=0.7,latency=macs,trial=1,heal=2"
    made, (applied,) = transform(model, [spec], Examples(model, corpus(4)))
    assert applied.report["merged"]
    assert applied.report["share"] <= 0.7
    assert len(made.config.rows()) <= len(model.config.rows())


@pytest.mark.parametrize("budget", [0.9, 0.7, 0.55])
def test_the_budget_is_respected(budget: float, corpus: Corpus) -> None:
    model = model_of()
    apply = LayerMerge(budget, "macs", trial=0, heal=0)
    made, report = apply(model, Examples(model, corpus(2)))
    assert macs(made) <= budget * macs(model)
    assert report["share"] == pytest.approx(macs(made) / macs(model), abs=1e-3)


@pytest.mark.parametrize(("budget", "latency"), [(1.0, "measure"), (1e9, "macs")])
def test_a_budget_without_limit_changes_nothing(
    budget: float, latency: Any, corpus: Corpus
) -> None:
    model = model_of()
    made, report = LayerMerge(budget, latency, trial=0)(model, Examples(model, corpus(2)))
    assert made.config == model.config
    assert report == {"latency": latency, "merged": [], "share": 1.0}
    new = made.state_dict()
    assert all(torch.equal(x, new[name]) for name, x in model.state_dict().items())


def test_healing_brings_the_scores_back(corpus: Corpus) -> None:
    model = model_of()
    head: Any = model.head
    with torch.no_grad():
        # scores of an untrained net hardly depend on the sound
        head.linear.weight.mul_(50)
    apply = LayerMerge(0.55, "macs", longest=3, trial=0, heal=30)
    _, report = apply(model, Examples(model, corpus(6), batch_size=3))
    assert report["divergence_healed"] < 0.7 * report["divergence_merged"]


def test_a_cheaper_segment_that_keeps_the_scores_is_chosen(corpus: Corpus) -> None:
    model = model_of()
    with torch.no_grad():
        # the second row returns what its shortcut does, so that its filters are not needed
        row: Any = model.encoder[1]  # type: ignore[index]
        row.sum.body[2].norm.weight.zero_()
        row.sum.body[2].norm.bias.zero_()
        # and its input has no effect below 0, so neither is the activation before it
        model.encoder[0].sum.body[2].norm.bias.fill_(50)  # type: ignore[index]
    _, report = LayerMerge(0.75, "macs", trial=0, heal=0)(model, Examples(model, corpus(4)))
    (chosen,) = report["merged"]
    assert chosen["sub_blocks"] == ["encoder.0.1", "encoder.1.0", "encoder.1.1"]
    assert chosen["importance"] > 0.999
    assert report["divergence_merged"] < 1e-4


@pytest.mark.parametrize("lookahead", ["same", 0])
def test_the_error_at_the_borders_is_reported(
    lookahead: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Segment(1, 2, 3)
    monkeypatch.setattr(layer_merge, "segments", lambda blocks, _: [*unchanged(len(blocks)), one])
    model = model_of(lookahead=lookahead)
    _, report = LayerMerge(0.95, "macs", trial=0, heal=0)(model, Examples(model, corpus(2)))
    (chosen,) = report["merged"]
    assert chosen["filters"] == ["encoder.0.0", "encoder.0.1"]
    assert chosen["pointwise"] == ["encoder.0.1"]
    if lookahead == 0:
        assert chosen["border_error"] < 1e-6
    else:
        assert 0.01 < chosen["border_error"] < 0.5


def test_measured_time_falls_with_the_budget(corpus: Corpus) -> None:
    model = model_of()
    made, report = LayerMerge(0.8, trial=0, heal=0)(model, Examples(model, corpus(2)))
    assert report["latency"] == "measure"
    assert report["share"] <= 0.8
    assert macs(made) < macs(model)


def test_the_same_seed_makes_the_same_model(corpus: Corpus) -> None:
    model, manifest = model_of(), corpus(2)
    spec = "layer_merge:budget=0.7,latency=macs,trial=1,heal=2"
    one, other = (
        transform(model, [spec], Examples(model, manifest, seed=3))[0].state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(x, other[name]) for name, x in one.items())


def test_a_budget_that_no_plan_meets_is_an_error(corpus: Corpus) -> None:
    model = model_of()
    with pytest.raises(
        sk.errors.ConfigError, match=r"budget=0\.01, but the fastest plan takes 0\."
    ):
        LayerMerge(0.01, "macs")(model, Examples(model, corpus(2)))


def test_a_net_of_other_components_is_an_error(corpus: Corpus) -> None:
    model = model_of(mixer="gru")
    with pytest.raises(sk.errors.ConfigError, match="takes a net with mixer=core/depthwise"):
        LayerMerge(0.8)(model, Examples(model, corpus(2)))


@pytest.mark.parametrize(
    "given", [{"budget": 0}, {"budget": 0.5, "latency": "flops"}, {"budget": 0.5, "longest": 0}]
)
def test_a_wrong_parameter_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(sk.errors.ConfigError, match="transform layer_merge: "):
        LayerMerge(**given)


@pytest.mark.parametrize(
    "net",
    [
        sk.QuartzNet(size="5x5"),
        sk.MatchboxNet(size="3x1x64", labels=("a", "b")),
        sk.MarbleNet(size="3x2x64"),
    ],
    ids=lambda net: str(net.kind),
)
def test_segments_of_the_known_sizes_merge(net: Net) -> None:
    model = sk.build(net, 1).eval()
    blocks = sub_blocks(net, model.frontend.channels_out(1))
    same = unchanged(len(blocks))
    segment = max((s for s in segments(blocks, 4) if s.merges), key=lambda s: s.split - s.start)
    made = merged(model, [*same[: segment.start], segment, *same[segment.stop :]])
    assert macs(made) < macs(model)
    with torch.no_grad():
        assert torch.isfinite(made(torch.randn(1, 8000)).scores).all()
