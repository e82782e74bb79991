"""Magnitude pruning: which weights become 0."""

import numpy as np
import pytest
import torch
from speechkit_compression.magnitude import Magnitude
from speechkit_compression.weights import TARGETS, prunable
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError, ConfigError
from speechkit.transforms import transform

KINDS = {
    "depthwise": "mixer.weight",
    "pointwise": "channel.weight",
    "dense": "conv.weight",
    "i2h": "weights.0",
    "h2h": "weights.1",
}


@pytest.fixture
def mixed() -> sk.Model:
    """A net with every kind of weight."""
    blocks = (
        sk.Block(channels=8, kernel=3, separable=False),
        sk.Block(channels=8, kernel=5, residual=True),
        sk.Block(channels=12, kernel=1, mixer="gru"),
    )
    return sk.build(sk.QuartzNet(labels=("a",), blocks=blocks, frontend="log_mel:n_mels=16"), 1)


def pruned(
    model: sk.Model, targets: str = " ".join(TARGETS), **params: object
) -> dict[str, Tensor]:
    made, _ = Magnitude(targets=targets, **params)(model, None)  # type: ignore[arg-type]
    return prunable(made)


def sizes(weights: dict[str, Tensor]) -> np.ndarray:  # type: ignore[type-arg]
    return torch.cat([w.detach().flatten() for w in weights.values()]).abs().numpy()


@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_paper_045_weights_below_the_percentile_of_all_become_0(
    model: sk.Model, share: float
) -> None:
    before, after = sizes(prunable(model)), sizes(pruned(model, share=share, scope="global"))
    kept = before >= np.percentile(before, 100 * share)
    assert abs((after == 0).sum() - share * len(before)) <= 1
    assert ((after > 0) != kept).sum() <= 1
    np.testing.assert_array_equal(after[after > 0], before[after > 0])


def test_paper_045_of_nine_weights_a_tenth_is_the_smallest() -> None:
    # the thesis has 0.0388 as the 10th percentile of a matrix whose smallest number is -0.014
    w = torch.tensor([[0.3, -0.014, 0.7], [-0.045, 0.2, -0.9], [0.5, 0.4, -0.6]])
    assert np.percentile(w.abs().numpy(), 10) == pytest.approx(0.0388, abs=1e-7)
    net = sk.MatchboxNet(
        labels=("a", "b"), blocks=(sk.Block(channels=3, kernel=1),) * 2, frontend="mfcc:n_mfcc=3"
    )
    model = sk.build(net)
    weight = model.encoder.get_parameter("0.body.0.channel.weight")
    with torch.no_grad():
        for each in prunable(model).values():
            each.fill_(1.0)
        weight.copy_(w)
    made = pruned(model, share=0.1)["encoder.0.body.0.channel.weight"]
    assert torch.equal(made, w * (w != -0.014))


def test_each_layer_loses_its_share_unless_the_scope_is_global(model: sk.Model) -> None:
    made = pruned(model, share=0.6)
    for name, weight in made.items():
        assert int((weight == 0).sum()) == round(0.6 * weight.numel()), name
    together = pruned(model, share=0.6, scope="global")
    shares = [float((weight == 0).double().mean()) for weight in together.values()]
    assert max(shares) - min(shares) > 0.1


@pytest.mark.parametrize("target", KINDS)
def test_only_the_targets_are_pruned(mixed: sk.Model, target: str) -> None:
    made, report = Magnitude(0.5, "global", target)(mixed, None)
    changed = {
        name for name, x in made.named_parameters() if not torch.equal(x, mixed.get_parameter(name))
    }
    assert changed
    assert changed <= {name for name in prunable(mixed) if name.endswith(KINDS[target])} | (
        {"head.linear.weight", "encoder.2.body.0.conv.weight"} if target == "pointwise" else set()
    )
    assert report["layers"].keys() == changed
    assert report["zeros"] == round(0.5 * report["weights"])


def test_all_kinds_are_targets_and_biases_are_not(mixed: sk.Model) -> None:
    names = set(prunable(mixed))
    others = {name for name, x in mixed.named_parameters() if x.ndim > 1} - names
    assert not others
    assert all(mixed.get_parameter(name).ndim > 1 for name in names)


def test_depthwise_kernels_stay_unless_they_are_targets(mixed: sk.Model) -> None:
    _, report = Magnitude(0.5)(mixed, None)
    _, every = Magnitude(0.5, targets=" ".join(TARGETS))(mixed, None)
    assert every["layers"].keys() - report["layers"].keys() == {
        name for name in every["layers"] if name.endswith("mixer.weight")
    }


@pytest.mark.parametrize("rank", ["magnitude", "random"])
def test_weights_that_are_0_count(model: sk.Model, rank: str) -> None:
    made, once = Magnitude(0.5, "global", rank=rank)(model, None)
    again, twice = Magnitude(0.5, "global", rank=rank)(made, None)
    more, third = Magnitude(0.75, "global", rank=rank)(made, None)
    assert once == twice
    assert third["zeros"] == round(0.75 * once["weights"])
    for name, weight in prunable(made).items():
        assert torch.equal(weight, prunable(again)[name])
        assert (prunable(more)[name][weight == 0] == 0).all()


def test_nothing_is_pruned_with_the_share_0_and_all_with_1(model: sk.Model) -> None:
    for name, weight in pruned(model, share=0).items():
        assert torch.equal(weight, prunable(model)[name])
    assert sizes(pruned(model, share=1)).max() == 0


@pytest.mark.parametrize("rank", ["magnitude", "random"])
def test_outputs_of_a_block_lose_an_input_together(model: sk.Model, rank: str) -> None:
    made = pruned(model, share=0.5, block=4, targets="pointwise", scope="global", rank=rank)
    pointwise = prunable(model, ("pointwise",))
    count = 0
    for name in pointwise:
        parts = (made[name].flatten(1) == 0).split(4)
        assert all((part == part[:1]).all() for part in parts), name
        count += int((made[name] == 0).sum())
    assert 0 <= round(0.5 * sum(w.numel() for w in pointwise.values())) - count < 4


def test_blocks_with_the_smallest_mean_are_pruned_first(model: sk.Model) -> None:
    name = "encoder.0.sum.body.0.channel.weight"
    made = pruned(model, share=0.25, block=4, targets="pointwise")[name]
    means = prunable(model)[name].detach().abs().unflatten(0, (2, 4)).mean(1)
    gone = made.unflatten(0, (2, 4))[:, 0] == 0
    assert int(gone.sum()) == 4
    assert means[gone].max() < means[~gone].min()


def test_a_short_last_block_counts_its_own_rows() -> None:
    net = sk.MatchboxNet(
        labels=("a", "b"), blocks=(sk.Block(channels=6, kernel=3),) * 2, frontend="mfcc:n_mfcc=8"
    )
    model = sk.build(net)
    weight = model.encoder.get_parameter("0.body.0.channel.weight")
    with torch.no_grad():
        weight[:4] = 1.0
        # the sum of these two is below that of the four, their mean above
        weight[4:] = 1.5
    made = pruned(model, share=0.34, block=4, targets="pointwise")
    zero = made["encoder.0.body.0.channel.weight"] == 0
    assert zero[:4].all(0).sum() == 3
    assert not zero[4:].any()


def test_other_kinds_have_no_blocks(model: sk.Model) -> None:
    one, other = (pruned(model, share=0.5, targets="depthwise", block=block) for block in (1, 4))
    for name, weight in one.items():
        assert torch.equal(weight, other[name])


def test_random_weights_follow_from_the_seed(model: sk.Model) -> None:
    spec = "magnitude:share=0.5,scope=global,rank=random,targets=" + " ".join(TARGETS)
    made = [transform(model, [spec])[0] for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(*(m.parameters() for m in made), strict=True))
    zero = sizes(prunable(made[0])) == 0
    assert zero.sum() == round(0.5 * len(zero))
    before = sizes(prunable(model))
    # as large as the others in the mean
    assert before[zero].mean() == pytest.approx(before[~zero].mean(), rel=0.1)


@pytest.mark.parametrize(
    ("params", "advice"),
    [
        ({"share": 1.5}, "share=1.5; give a share from 0 to 1"),
        ({"share": 0.5, "scope": "net"}, "scope=net; give layer or global"),
        ({"share": 0.5, "rank": "size"}, "rank=size; give magnitude or random"),
        ({"share": 0.5, "block": 0}, "block=0; give a number of outputs from 1"),
        ({"share": 0.5, "targets": "all"}, "targets='all'; give some of pointwise depthwise"),
    ],
)
def test_wrong_parameters_are_one_line(params: dict[str, object], advice: str) -> None:
    with pytest.raises(ComponentError, match=advice):
        Magnitude(**params)  # type: ignore[arg-type]


def test_a_net_without_the_targets_is_refused(model: sk.Model) -> None:
    with pytest.raises(ConfigError, match="magnitude: the net has no weights of its targets"):
        Magnitude(0.5, targets="h2h")(model, None)
