"""Smoothing changes no score in float and makes int8 exact where a few channels are large."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from speechkit_compression.outliers import largest
from speechkit_compression.smoothing import PtqSmooth
from torch import Tensor

import speechkit as sk
from speechkit.component import Spec
from speechkit.data import read_manifest
from speechkit.export import export
from speechkit.plans.plan import Plan
from speechkit.plans.scorer import PlanScorer
from speechkit.probes import Examples
from speechkit.tasks.plans import plan_of

Corpus = Callable[..., Path]
Wide = Callable[..., sk.Model]


def pairs(model: sk.Model) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """The weights of the depthwise convolutions, and of the 1×1 layers behind them."""
    named = dict(model.named_parameters())
    mixers = [name for name in named if name.endswith("mixer.weight")]
    return [(named[name], named[name.replace("mixer", "channel")]) for name in mixers]


@torch.no_grad()
def scores(model: sk.Model, examples: Examples) -> Tensor:
    return torch.cat([model.score(c).scores.flatten() for _, c in examples])


@torch.no_grad()
def encoded(model: sk.Model, examples: Examples) -> Tensor:
    """What the head reads."""
    return torch.cat([model.encoder(model.stem(c)).masked.flatten() for _, c in examples])


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_paper_81_no_score_changes_in_float(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus(4))
    for alpha in (0.0, 0.5, 1.0):
        made, _ = PtqSmooth(alpha)(model, examples)
        assert not torch.equal(pairs(made)[1][0], pairs(model)[1][0])
        assert off(scores(made, examples), scores(model, examples)) < 1e-4


def test_paper_81_planted_channels_cost_int8_four_times_the_error_of_smoothed_ones(
    wide: Wide, corpus: Corpus
) -> None:
    model = wide()
    examples = Examples(model, corpus(6))
    made, _ = PtqSmooth()(model, examples)
    expected = encoded(model, examples)
    naive, smoothed, without = (
        off(encoded(sk.prepare(m, dtype="int8"), examples), expected)
        for m in (model, made, wide(planted=False))
    )
    assert smoothed < naive / 4
    assert smoothed < 1.1 * without


def test_paper_81_a_plan_in_int8_gains_as_much(wide: Wide, corpus: Corpus) -> None:
    model = wide()
    examples = Examples(model, corpus(6))
    made, _ = PtqSmooth()(model, examples)
    clips = [clip.numpy()[None] for clip in examples.clips(6)]

    def found(plan: Plan) -> Tensor:
        return torch.from_numpy(np.concatenate([PlanScorer(plan).clips(x) for x in clips]))

    expected = found(plan_of(model))
    naive, smoothed = (off(found(plan_of(m, "int8")), expected) for m in (model, made))
    assert smoothed < naive / 4


@pytest.mark.slow
def test_paper_81_a_smoothed_model_exports_to_onnx_in_int8(
    wide: Wide, corpus: Corpus, tmp_path: Path
) -> None:
    manifest = corpus(6)
    model = wide()
    made, _ = PtqSmooth()(model, Examples(model, manifest))
    sounds, form = read_manifest(manifest), Spec("onnx", {"int8": True})
    naive, smoothed = (
        export(m, tmp_path / "int8.onnx", form, sounds).difference or 0.0 for m in (model, made)
    )
    assert 0 < smoothed < naive / 4


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_values_and_weights_share_the_range_as_alpha_says(
    wide: Wide, corpus: Corpus, alpha: float
) -> None:
    model = wide()
    examples = Examples(model, corpus(4))
    made, report = PtqSmooth(alpha)(model, examples)
    before, after = largest(model, examples), largest(made, examples)
    for name, ratios in report["layers"].items():
        old, new = (
            dict(m.named_parameters())[f"{name}.weight"].abs().amax(0) for m in (model, made)
        )
        # a channel behind a ReLU may always be 0
        alive = before[name] > 0
        product = (before[name] * old)[alive]
        torch.testing.assert_close(after[name][alive], product ** (1 - alpha), rtol=1e-4, atol=0)
        torch.testing.assert_close(new[alive], product**alpha, rtol=1e-4, atol=0)
        for ratio, a in ((ratios["before"], before[name]), (ratios["after"], after[name])):
            assert ratio == pytest.approx(float(a.max() / a[alive].median()), rel=1e-4)
        assert ratios["before"] > 1.5 * ratios["after"]


def test_layers_behind_no_depthwise_convolution_stay(wide: Wide, corpus: Corpus) -> None:
    model = wide()
    made, report = PtqSmooth()(model, Examples(model, corpus(2)))
    smoothed = set(report["layers"])
    assert smoothed == {"stem.body.0.channel", *(f"encoder.{i}.sum.body.0.channel" for i in (0, 1))}
    changed = {
        name
        for name, x in made.state_dict().items()
        if not torch.equal(x, model.state_dict()[name])
    }
    mixers = {name.replace("channel", "mixer") for name in smoothed}
    assert changed == {f"{name}.weight" for name in smoothed | mixers}


def test_a_channel_that_is_always_0_stays(wide: Wide, corpus: Corpus) -> None:
    model = wide()
    for mixer, channel in pairs(model):
        mixer.data[5] = 0
        channel.data[:, 6] = 0
    made, _ = PtqSmooth()(model, Examples(model, corpus(2)))
    for old, new in zip(pairs(model), pairs(made), strict=True):
        assert torch.equal(old[1][:, 5], new[1][:, 5])
        assert torch.equal(old[0][6], new[0][6])


def test_padding_does_not_change_the_factors(wide: Wide, corpus: Corpus) -> None:
    model = wide()
    manifest = corpus(6)
    made = [PtqSmooth()(model, Examples(model, manifest, batch_size=n))[0] for n in (1, 6)]
    for one, other in zip(*map(pairs, made), strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-9)


def test_what_it_cannot_do_is_one_line(wide: Wide, corpus: Corpus) -> None:
    with pytest.raises(sk.errors.ConfigError, match=r"alpha=2; give a number from 0 to 1"):
        PtqSmooth(alpha=2)
    with pytest.raises(sk.errors.ConfigError, match=r"ptq_smooth needs recordings"):
        PtqSmooth()(wide(), None)
    config = wide().config
    dense = tuple(replace(block, separable=False) for block in config.blocks)
    model = sk.build(replace(config, blocks=dense)).eval()
    with pytest.raises(sk.errors.ConfigError, match=r"no 1×1 layer of this net is behind"):
        PtqSmooth()(model, Examples(model, corpus(2)))
