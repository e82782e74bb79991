"""A tiny QuartzNet with an activation of each sort learns, streams, and comes back."""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import speechkit as sk
from speechkit.errors import SpeechkitError, StreamError
from speechkit.infer import stream_scores
from speechkit.models import Block, Model, QuartzNet
from speechkit.plugins import Registry, using
from speechkit.train.optim import parameter_groups

BLOCKS = (
    Block(channels=8, kernel=5, stride=2),
    Block(channels=8, kernel=5, repeat=2, residual=True),
    Block(channels=8, kernel=1, separable=False),
)
NETS = {
    "quartznet": lambda **fields: sk.QuartzNet(size="5x5", **fields),
    "matchboxnet": lambda **fields: sk.MatchboxNet(labels=("a", "b"), size="3x1x64", **fields),
    "marblenet": lambda **fields: sk.MarbleNet(size="3x2x64", **fields),
}
STREAMING = (
    "smelu",
    "smelu:learn=true,per_channel=true",
    "prelu",
    "tmaf_tri",
    "swiglu",
    "resilu2",
    "stochastic:steps=4",
    "velu",
    "abrelu_running",
)
OFFLINE = ("abrelu", "linear_dc")


def net(activation: str, **parts: str) -> QuartzNet:
    frontend = "log_mel:n_mels=16,normalize=fixed"
    labels = tuple(" hilo")
    return QuartzNet(
        labels=labels,
        blocks=BLOCKS,
        frontend=frontend,
        lookahead=1,
        activation=activation,
        **parts,
    )


def learn(model: Model) -> list[float]:
    """The losses of some steps, which leave every parameter with another value."""
    audio = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.train().parameters(), lr=5e-3)
    losses = []
    for _ in range(6):
        output = model(audio, torch.tensor([4000, 2800]))
        targets, lengths = torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 2])
        scores = output.scores.transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(scores, targets, output.lengths, lengths, blank=5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@pytest.mark.parametrize("activation", [*STREAMING, *OFFLINE])
def test_it_learns_streams_and_comes_back(activation: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = sk.build(net(activation))
    losses = learn(model)
    assert losses[-1] < losses[0]
    audio = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        scores = model(audio[None]).scores[0]
    if activation in OFFLINE:
        with pytest.raises(StreamError, match=f"use activation '{activation}_running' to stream"):
            next(stream_scores(model, audio))
    else:
        streamed = torch.cat(list(stream_scores(model, audio, chunk_s=0.05)))
        torch.testing.assert_close(streamed, scores, rtol=1e-4, atol=1e-5)
    ready = sk.prepare(model)
    with torch.inference_mode():
        torch.testing.assert_close(ready(audio[None]).scores[0], scores, rtol=1e-4, atol=1e-4)
    sk.save(model, tmp_path / "model")
    again = sk.load(tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(again(audio[None]).scores[0], scores)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("activation", ["tmaf", "tmaf:knots=3,share=layer", "tmaf_tri"])
def test_paper_098_it_begins_as_the_net_with_relu(net: str, activation: str) -> None:
    plain, model = sk.build(NETS[net]()), sk.build(NETS[net](activation=activation), seed=1)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert not unexpected
    audio = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model.eval()(audio).scores, plain.eval()(audio).scores)


def test_a_gated_activation_may_stand_in_one_sub_block_or_row() -> None:
    stem, inner, last = BLOCKS
    for activation in (("relu", "swiglu"), ("swiglu", "relu"), "swiglu"):
        rows = (stem, replace(inner, activation=activation), last)
        model = sk.build(replace(net("relu"), blocks=rows))
        losses = learn(model)
        assert losses[-1] < losses[0]


def learning() -> dict[str, nn.Module]:
    """The activations that can learn, made to do so."""
    made = {}
    for entry in Registry().components("activation"):
        parameters = inspect.signature(entry.factory()).parameters
        wanted = {"learn": True, "train_knots": True, "formula": "scale mul sigmoid"}
        given = {name: value for name, value in wanted.items() if name in parameters}
        if entry.plugin == "activations":
            module = entry.factory()(8, **given)
            made.update({entry.component.name: module} if list(module.parameters()) else {})
    return made


@pytest.mark.parametrize(("name", "module"), learning().items())
def test_what_it_learns_is_kept_out_of_weight_decay(name: str, module: nn.Module) -> None:
    (group,) = parameter_groups(module)
    assert group["weight_decay"] == 0


def test_fused_layers_and_sessions_take_smelu_in() -> None:
    torch.manual_seed(0)
    model = sk.build(net("smelu")).eval()
    ready = sk.prepare(model)
    kinds = [str(line) for line in sk.ops.explain(ready)]
    assert not any("SmeLU" in kind for kind in kinds)
    stream = sk.stream(ready)
    assert stream.backend == "native" or "SmeLU" not in stream.backend


def test_a_feed_forward_layer_in_place_of_each_product() -> None:
    model = sk.build(net("relu", channel="glu_ffn", init="he"))
    assert learn(model)[-1] < 1e3
    audio = 0.1 * torch.randn(2, 4000)
    assert torch.isfinite(model(audio).scores).all()


def test_without_the_package_the_message_has_the_line_to_type(tmp_path: Path) -> None:
    sk.save(sk.build(net("smelu")), tmp_path / "model")
    without = using(Registry({"SPEECHKIT_PLUGINS": ""}))
    with without, pytest.raises(SpeechkitError, match="pip install speechkit-activations"):
        sk.load(tmp_path / "model")
