"""Logits of prefixes, the loss of all of them, and nets that are cut to one."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from speechkit_heads.matryoshka import Matryoshka, MatryoshkaHead, matryoshka
from torch import Tensor

import speechkit as sk
from speechkit.data import Utterance, write_manifest
from speechkit.errors import ComponentError, ConfigError, TrainingError
from speechkit.models import Model
from speechkit.nn import Chunk, Taps
from speechkit.testing import check_native
from speechkit.train import Data, Run, fit
from speechkit.transforms import transform

NETS = {
    "quartznet": partial(sk.QuartzNet, size="5x5", labels=("a", "b")),
    "matchboxnet": partial(sk.MatchboxNet, size="3x1x64", labels=("a", "b")),
    "marblenet": partial(sk.MarbleNet, size="3x2x64"),
}
SMALL = (
    sk.Block(channels=8, kernel=5, stride=2),
    sk.Block(channels=12, kernel=5, residual=True),
    sk.Block(channels=12, kernel=1, separable=False),
)


def net(**fields: Any) -> sk.MatchboxNet:
    given = {"blocks": SMALL, "head": "matryoshka:nesting=3", "frontend": "log_mel:n_mels=16"}
    return sk.MatchboxNet(labels=("low", "high"), **{**given, **fields})


def noise(batch: int = 3, channels: int = 12) -> Chunk:
    chance = torch.Generator().manual_seed(1)
    return Chunk.of(torch.randn(batch, channels, 9, generator=chance).double())


def test_paper_104_prefixes_double_up_to_all_channels() -> None:
    lengths = {c: matryoshka(c, 2).nesting for c in (4, 8, 12, 16, 100, 128)}
    assert (lengths[4], lengths[8]) == ((4,), (8,))
    assert (lengths[12], lengths[16]) == ((8, 12), (8, 16))
    assert (lengths[100], lengths[128]) == ((8, 16, 32, 64, 100), (8, 16, 32, 64, 128))
    assert matryoshka(12, 2, nesting=3).nesting == (3, 6, 12)


def test_paper_104_a_prefix_has_the_logits_without_the_other_channels() -> None:
    head, c = matryoshka(12, 4, nesting=3).double(), noise()
    pooled = head.pool(c)
    for m in (1, *head.nesting):
        without = pooled.x.clone()
        without[:, m:] = 0
        expected = head.linear(Chunk(without, pooled.valid)).x[:, :, 0]
        torch.testing.assert_close(head.prefix(pooled, m), expected)
    torch.testing.assert_close(head.prefix(pooled, 12), head(c).x[:, :, 0])


def losses_of(method: Matryoshka, model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """The method's losses of a batch, the pooled channels and the labels."""
    method.start(model, None)
    y, x = (
        torch.tensor([0, 1, 1]),
        torch.randn(3, 16, 20, generator=torch.Generator().manual_seed(0)),
    )
    with Taps({"pool": model.head.pool}) as taps:
        output = model.train().score(Chunk.of(x))
    extra = method.extra_loss(SimpleNamespace(targets=y, target_lengths=None), output)
    return extra, taps.take()[0].output.x, y


def test_paper_104_the_loss_is_the_sum_over_the_shorter_prefixes() -> None:
    model = sk.build(net())
    weight, bias = model.head.linear.weight, model.head.linear.bias
    for smoothing, loss in ((0.0, "cross_entropy"), (0.5, "cross_entropy:smoothing=0.5")):
        extra, z, y = losses_of(Matryoshka(loss), model)
        logits = [z[:, :m, 0] @ weight[:, :m].T + bias for m in (3, 6)]
        each = [F.cross_entropy(x, y, reduction="none", label_smoothing=smoothing) for x in logits]
        torch.testing.assert_close(extra, each[0] + each[1])


def test_paper_104_a_channel_learns_from_the_prefixes_that_hold_it() -> None:
    model = sk.build(net())
    extra, z, y = losses_of(Matryoshka(), model)
    (found,) = torch.autograd.grad(extra.sum(), z)
    expected = torch.zeros(3, 12)
    weight, bias = model.head.linear.weight, model.head.linear.bias
    for m in (3, 6):
        p = (z[:, :m, 0] @ weight[:, :m].T + bias).softmax(1) - F.one_hot(y, 2)
        expected[:, :m] += p @ weight[:, :m]
    torch.testing.assert_close(found[:, :, 0], expected.detach())
    assert (found[:, :6] != 0).all()
    assert (found[:, 6:] == 0).all()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three steps of a clip classifier of two tones."""
    chance = np.random.default_rng(0)
    utterances = []
    for i in range(6):
        sound = 0.3 * np.sin(2 * np.pi * (300 if i % 2 else 2000) * np.arange(6400) / 16000)
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, sound + chance.normal(0, 0.01, len(sound)), 16000)
        label = "low" if i % 2 else "high"
        utterances.append(Utterance(audio=path, duration_s=0.4, label=label))
    write_manifest(tmp_path / "all.jsonl", utterances)
    return Run(
        model=net(head="matryoshka:nesting=12"),
        data=Data(train=tmp_path / "all.jsonl", dev=tmp_path / "all.jsonl", batch_size=3),
        steps=3,
        eval_every=3,
        save_every=3,
    )


def test_with_one_prefix_it_is_the_plain_run_to_the_bit(run: Run, tmp_path: Path) -> None:
    """That with all channels; with several the weights are others."""
    nested = replace(run, model=net(), method=("matryoshka",))
    runs = {"plain": run, "one": replace(run, method=("matryoshka",)), "nested": nested}
    for name, each in runs.items():
        fit(each, tmp_path / name, device="cpu")
    plain, one, several = (load_file(tmp_path / name / "last/model.safetensors") for name in runs)
    assert all(torch.equal(x, one[name]) for name, x in plain.items())
    assert not torch.equal(plain["head.linear.weight"], several["head.linear.weight"])


@pytest.mark.parametrize("family", NETS)
def test_a_net_is_cut_to_a_prefix(family: str, tmp_path: Path) -> None:
    model = sk.build(NETS[family](head="matryoshka"), seed=3)
    audio = 0.1 * torch.randn(2, 6400, generator=torch.Generator().manual_seed(0))
    scores = model.train()(audio, torch.tensor([6400, 4000])).scores
    F.cross_entropy(scores, torch.tensor([0, 1])).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, f"no gradient reaches {name}"
    made, (applied,) = transform(model.eval(), ["prefix:channels=16"])
    assert isinstance(made.head, MatryoshkaHead)
    assert made.head.nesting == (8, 16)
    assert made.head.linear.weight.shape == (2, 16)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, made))
    assert applied.report == {"channels": 16, "parameters_removed": before - after}
    sk.save(made, tmp_path / "cut", transforms=[applied])
    with torch.inference_mode():
        features = model.features(audio)
        pooled = model.head.pool(model.encoder(model.stem(features)))
        cut = sk.load(tmp_path / "cut")
        torch.testing.assert_close(
            cut.score(features).scores, model.head.prefix(pooled, 16), rtol=1e-4, atol=1e-5
        )
        running = cut.stream_layer()(Chunk.of(audio[:, None])).x
        torch.testing.assert_close(running[:, :, -1], cut(audio).scores, rtol=1e-3, atol=1e-4)


def test_its_native_step_is_the_same() -> None:
    head = matryoshka(12, 4)
    check_native(head.running(), noise().x.float(), torch.tensor([9, 4, 1]))


def test_what_cannot_be_cut_is_refused() -> None:
    plain = sk.build(net())
    for channels in (0, 12):
        with pytest.raises(ConfigError, match=f"prefix: channels={channels}; give 1 to 11"):
            transform(plain, [f"prefix:channels={channels}"])
    with pytest.raises(ConfigError, match="the head is clip; train a net with head=matryoshka"):
        transform(sk.build(net(head="clip")), ["prefix:channels=3"])
    mixing = net(blocks=(*SMALL[:2], replace(SMALL[2], repeat=2)))
    with pytest.raises(ConfigError, match="depend on each other; give it a plain block"):
        transform(sk.build(mixing), ["prefix:channels=3"])


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ComponentError, match="nesting=0; give 1 or more"):
        matryoshka(8, 2, nesting=0)
    with pytest.raises(TrainingError, match="the head is clip; give head=matryoshka"):
        Matryoshka().start(sk.build(net(head="clip")), None)
