"""The entropy of attention, on planted weights and in nets."""

import math
from pathlib import Path

import pytest
import soundfile
import torch
from speechkit_mixers.attention import Attention
from speechkit_mixers.attention_entropy import attention_entropy
from torch import nn

import speechkit as sk
from speechkit.data import Utterance
from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples, probe
from speechkit.testing import assert_close


@pytest.fixture
def clips(tmp_path: Path) -> list[Utterance]:
    chance = torch.Generator().manual_seed(0)
    for count in (4000, 2500):
        sound = 0.1 * torch.randn(count, generator=chance)
        soundfile.write(tmp_path / f"{count}.wav", sound.numpy(), 16000)
    return [
        Utterance(audio=path, duration_s=soundfile.info(path).duration)
        for path in sorted(tmp_path.glob("*.wav"))
    ]


def net(mixer: str, **fields: str) -> Model:
    rows = (
        sk.Block(channels=8, kernel=5, stride=2),
        sk.Block(channels=8, kernel=9, residual=True, mixer=mixer),
        sk.Block(channels=8, kernel=9, residual=True, mixer=mixer),
    )
    frontend = "log_mel:n_mels=16,normalize=fixed"
    config = sk.QuartzNet(labels=("a",), blocks=rows, frontend=frontend, **fields)
    return sk.build(config).eval()


def test_paper_006_uniform_attention_has_the_log_of_the_number_of_keys() -> None:
    weights = torch.full((2, 3, 9, 9), 1 / 5)
    weights[..., 5:] = 0
    readable = (torch.arange(9) < 5).expand(2, 9, 9)
    entropy = attention_entropy(weights, readable)
    assert_close("entropy", torch.full((2, 3, 9), math.log(5)), entropy, 1e-6)
    assert_close("of 1", torch.ones(2, 3, 9), attention_entropy(weights, readable, True), 1e-6)
    # keys that may not be read do not count, whatever they hold
    weights[..., 5:] = torch.nan
    assert torch.equal(attention_entropy(weights, readable), entropy)


def test_paper_006_attention_to_one_key_has_an_entropy_of_0() -> None:
    weights = nn.functional.one_hot(torch.arange(9)).float().expand(2, 3, 9, 9)
    assert not attention_entropy(weights, torch.ones(2, 9, 9, dtype=torch.bool)).any()


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_paper_006_a_uniform_head_has_a_higher_entropy_than_a_sharp_one(
    norm: str, clips: list[Utterance]
) -> None:
    model = net("attention:heads=2", norm=norm)
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    with torch.no_grad():
        for layer in layers:
            # scores of 0 in the first head, scores far apart in the second
            layer.query.weight[:4] = 0
            layer.query.weight[4:] *= 1e4
    found = probe(model, ["attention_entropy"], Examples(model, clips, batch_size=2))
    *heads, overloaded = found["attention_entropy"].values()
    assert len(heads) == len(layers) == 2
    for first, second in heads:
        assert first == pytest.approx(1, abs=1e-6)
        assert second < 0.3
    assert overloaded == 0.5


def test_paper_006_the_probe_counts_the_keys_of_each_window(clips: list[Utterance]) -> None:
    model = net("attention:heads=2")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Attention)}
    with torch.no_grad():
        for layer in layers.values():
            layer.query.weight.zero_()
    examples = Examples(model, clips, batch_size=2)
    found = probe(model, ["attention_entropy:normalise=false"], examples)
    lengths = [length for _, c in examples for length in model.stem(c).lengths.tolist()]
    logs = [
        math.log(min(t + 4, length - 1) - max(t - 4, 0) + 1)
        for length in lengths
        for t in range(length)
    ]
    for name in layers:
        expected = torch.full((2,), sum(logs) / len(logs)).double()
        assert_close(name, expected, found["attention_entropy:normalise=false"][name], 1e-6)


def test_paper_006_recurrences_have_an_entropy_too(clips: list[Utterance]) -> None:
    model = net("retention")
    found = probe(model, ["attention_entropy"], Examples(model, clips))["attention_entropy"]
    assert all(((x > 0) & (x <= 1)).all() for name, x in found.items() if name != "overloaded")


def test_paper_006_a_model_without_weights_is_refused(clips: list[Utterance]) -> None:
    model = net("depthwise")
    with pytest.raises(ComponentError, match="no layer of this model has implicit_attention"):
        probe(model, ["attention_entropy"], Examples(model, clips))
