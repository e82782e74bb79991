"""The head is what gradient descent on its clips gives, and the transform fills it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from speechkit_heads.icl_adapt import AdaptedLinear
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError, ConfigError, ManifestError
from speechkit.nn import Chunk
from speechkit.probes import Examples
from speechkit.transforms import transform

CHANNELS, LABELS, CLIPS = 6, 4, 5


def adapted(steps: int, lr: float = 0.3, clips: int = CLIPS, free: int = 2) -> AdaptedLinear:
    """A layer with random clips, and rows that are free behind them."""
    torch.manual_seed(0)
    layer = AdaptedLinear(CHANNELS, LABELS, lr, steps, clips + free)
    layer.context[:clips] = torch.randn(clips, CHANNELS)
    layer.targets[:clips] = F.one_hot(torch.arange(clips) % LABELS, LABELS).float()
    return layer


def descended(layer: AdaptedLinear) -> nn.Linear:
    """The same layer after real steps of SGD on its clips."""
    linear = nn.Linear(CHANNELS, LABELS)
    linear.load_state_dict({name: x.clone() for name, x in layer.named_parameters()})
    used = layer.targets.sum(1) > 0
    optimizer = torch.optim.SGD(linear.parameters(), lr=layer.lr)
    for _ in range(layer.steps):
        optimizer.zero_grad()
        F.cross_entropy(linear(layer.context[used]), layer.targets[used].argmax(1)).backward()
        optimizer.step()
    return linear


def scores(layer: AdaptedLinear, x: Tensor) -> Tensor:
    y: Tensor = layer(Chunk.of(x[:, :, None])).x[:, :, 0]
    return y


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_it_equals_real_steps_of_gradient_descent(steps: int) -> None:
    layer, x = adapted(steps), torch.randn(7, CHANNELS)
    expected = descended(layer)(x)
    assert torch.allclose(scores(layer, x), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(F.linear(x, layer.weight, layer.bias), expected, atol=0.05)


def test_without_clips_it_is_the_linear_layer() -> None:
    layer, x = adapted(steps=3, clips=0), torch.randn(7, CHANNELS)
    assert torch.equal(scores(layer, x), F.linear(x, layer.weight, layer.bias))


def test_the_order_of_the_clips_does_not_matter() -> None:
    layer, x = adapted(steps=3), torch.randn(7, CHANNELS)
    before = scores(layer, x)
    order = torch.randperm(len(layer.context))
    layer.context, layer.targets = layer.context[order], layer.targets[order]
    assert torch.allclose(scores(layer, x), before, rtol=0, atol=1e-6)


def test_a_free_row_has_no_effect() -> None:
    few, many = adapted(steps=3, free=0), adapted(steps=3, free=30)
    x = torch.randn(7, CHANNELS)
    assert torch.allclose(scores(few, x), scores(many, x), rtol=0, atol=1e-6)


def test_the_transform_keeps_the_weights_and_learns_the_clips(
    model: sk.Model, words: Path, tmp_path: Path
) -> None:
    examples = Examples(model, words)
    made, applied = transform(model, ["icl_adapt:lr=0.5,steps=20"], examples)
    assert made.labels == (*model.labels, "high", "low")
    weight, before = (m.state_dict()["head.linear.weight"] for m in (made, model))
    assert torch.equal(weight[:3], before)
    assert not weight[3:].any()
    assert applied[0].report["clips"] == {"high": 3, "low": 3, "a": 1}
    sk.save(made, tmp_path / "made")
    loaded = sk.load(tmp_path / "made")
    for utterance in examples.utterances:
        if utterance.label in ("high", "low"):
            assert sk.classify(loaded, utterance.audio).label == utterance.label


@pytest.mark.parametrize("params", ["lr=0", "lr=-1", "lr=nan", "steps=0", "steps=1.5"])
def test_a_parameter_out_of_range_is_an_error(params: str) -> None:
    with pytest.raises((ComponentError, ConfigError), match=params.partition("=")[0]):
        sk.build(sk.MatchboxNet(size="3x1x64", labels=("a",), head=f"icl_adapt:{params}"))


def test_recordings_need_labels(model: sk.Model, words: Path) -> None:
    rows = words.read_text(encoding="utf-8").replace('"label": "high"', '"text": "high"')
    words.write_text(rows, encoding="utf-8")
    with pytest.raises(ManifestError, match="no label"):
        transform(model, ["icl_adapt"], Examples(model, words))
