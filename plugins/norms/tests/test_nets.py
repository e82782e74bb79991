"""A tiny QuartzNet with each of the norms learns, streams, and comes back from its folder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from speechkit_norms.batch import PRepBN

import speechkit as sk
from speechkit.errors import SpeechkitError, StreamError
from speechkit.export.onnx import Onnx
from speechkit.infer import stream_scores
from speechkit.models import Block, Model, Net, QuartzNet
from speechkit.nn import BatchNorm
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
STREAMING = {
    "none": {"norm": "none"},
    "rms": {"norm": "rms"},
    "rms of some channels": {"norm": "rms:p=0.5,bias=true,eps_mode=inside"},
    "layer": {"norm": "layer"},
    "layer_cum": {"norm": "layer_cum"},
    "ms_layer": {"norm": "ms_layer"},
    "ms_rms": {"norm": "ms_rms"},
    "repbn": {"norm": "repbn"},
    "prepbn": {"norm": "prepbn:steps=4"},
    "group": {"norm": "group:groups=2"},
    "running": {"norm": "running"},
    "dual_patch": {"stem": "dual_patch"},
    "ln_lstm": {"mixer": "ln_lstm"},
    "learnable_lrelu": {"norm": "none", "activation": "learnable_lrelu"},
}
OFFLINE = {name: {"norm": name} for name in ("layer_ct", "instance")}


def net(parts: dict[str, str]) -> Net:
    frontend = "log_mel:n_mels=16,normalize=fixed"
    return QuartzNet(labels=tuple(" hilo"), blocks=BLOCKS, frontend=frontend, lookahead=1, **parts)


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
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert torch.isfinite(parameter.grad).all(), name
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@pytest.fixture(params=[*STREAMING, *OFFLINE])
def model(request: pytest.FixtureRequest) -> Model:
    """A net that has learned for some steps."""
    torch.manual_seed(0)
    model = sk.build(net((STREAMING | OFFLINE)[request.param]))
    losses = learn(model)
    assert losses[-1] < losses[0]
    return model


def test_it_learns_streams_and_comes_back(model: Model, tmp_path: Path) -> None:
    audio = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        scores = model(audio[None]).scores[0]
    if str(model.config.norm) in OFFLINE:
        with pytest.raises(StreamError, match="reads the whole utterance; choose another norm"):
            sk.stream(model)
        with pytest.raises(StreamError, match="cannot be streamed; use norm"):
            next(stream_scores(model, audio))
    else:
        streamed = torch.cat(list(stream_scores(model, audio)))
        torch.testing.assert_close(streamed, scores, rtol=1e-3, atol=1e-4)

    sk.save(model, tmp_path / "model")
    again = sk.load(tmp_path / "model")
    ready = sk.prepare(model)
    with torch.inference_mode():
        assert torch.equal(again(audio[None]).scores[0], scores)
        torch.testing.assert_close(ready(audio[None]).scores[0], scores, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_running_has_an_onnx_form(streaming: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = sk.build(replace(net({"norm": "running"}), blocks=(BLOCKS[0], BLOCKS[2])))
    learn(model)
    audio = 0.1 * torch.randn(2, 24000, generator=torch.Generator().manual_seed(1))
    # it compares the file with the model itself
    Onnx(streaming)(model, (audio, torch.tensor([24000, 17000])), tmp_path / "model.onnx")


def test_a_folder_names_the_plugin_and_what_to_install(tmp_path: Path) -> None:
    sk.save(sk.build(net({"norm": "rms"})), tmp_path / "model")
    assert '"distribution": "speechkit-norms"' in (tmp_path / "model" / "config.json").read_text()
    without = using(Registry({"SPEECHKIT_PLUGINS": ""}))
    with without, pytest.raises(SpeechkitError, match="pip install speechkit-norms"):
        sk.load(tmp_path / "model")


def test_the_plugin_shadows_nothing_of_the_core() -> None:
    own = {(e.kind, e.component.name) for e in sk.components() if e.plugin == "norms"}
    core = {(e.kind, e.component.name) for e in sk.components() if e.plugin == "core"}
    assert not own & core


@pytest.mark.parametrize("net", NETS)
def test_paper_100_prepbn_begins_as_the_net_with_its_first_norm(net: str) -> None:
    first = sk.build(NETS[net](norm="norms/layer"))
    model = sk.build(NETS[net](norm="prepbn"), seed=1)
    state = {name.replace("norm.", "norm.first."): x for name, x in first.state_dict().items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing
    assert not unexpected
    audio = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    features = first.eval().features(audio)
    model.train()
    first.train()
    torch.testing.assert_close(model.score(features).scores, first.score(features).scores)
    assert all(m.share == 1 - 1 / m.steps for m in model.modules() if isinstance(m, PRepBN))


@pytest.mark.parametrize("name", {**STREAMING, **OFFLINE})
def test_gains_are_kept_out_of_weight_decay(name: str) -> None:
    model = sk.build(net({**STREAMING, **OFFLINE}[name]))
    spared = {id(p) for group in parameter_groups(model)[1:] for p in group["params"]}
    gains = {
        f"{path}.{name}": value
        for path, layer in model.named_modules()
        for name, value in layer.named_parameters(recurse=False)
        # a batch norm's have decay in the papers' recipes
        if not isinstance(layer, BatchNorm) and (value == 1).all()
    }
    assert [path for path, gain in gains.items() if id(gain) not in spared] == []
    without = "none", "ms_layer", "ms_rms", "learnable_lrelu"
    assert bool(gains) == (name not in without)


def test_alpha_of_repbn_is_kept_out_of_weight_decay() -> None:
    model = sk.build(net({"norm": "repbn"}))
    _, spared = parameter_groups(model)
    alphas = [value for name, value in model.named_parameters() if name.endswith("alpha")]
    assert {id(value) for value in alphas} == {id(value) for value in spared["params"]}
