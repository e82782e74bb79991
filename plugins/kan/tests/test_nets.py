"""A tiny net with each layer learns, streams, and comes back from its folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_kan.af_kan import AFKAN
from speechkit_kan.cheby import Chebyshev

import speechkit as sk
from speechkit.errors import SpeechkitError
from speechkit.export import export
from speechkit.infer import stream_scores
from speechkit.models import Block, MatchboxNet, Model, Net, QuartzNet
from speechkit.nn import Residual
from speechkit.plugins import Registry, using
from speechkit.train.optim import parameter_groups

BLOCKS = (
    Block(channels=8, kernel=5, stride=2),
    Block(channels=8, kernel=5, repeat=2, residual=True),
    Block(channels=8, kernel=1, separable=False),
)
PARTS: dict[str, dict[str, Any]] = {
    "bspline": {"channel": "bspline"},
    "cheby": {"channel": "cheby:degree=3"},
    "cheby activation": {"activation": "cheby"},
    "relu_kan": {"channel": "relu_kan"},
    "af_kan": {"channel": "af_kan"},
    "cheb_conv": {"mixer": "cheb_conv"},
    "cheb_conv shared": {"mixer": "cheb_conv:shared=true"},
    "rkan": {"block": "rkan"},
    "rkan bspline": {"block": "rkan:basis=bspline"},
    "rkan rbf": {"block": "rkan:basis=rbf"},
}
TEXT = {"kan_ctc": {"head": "kan_ctc"}}
HEADS = {layout: f"kan_dense:layout={layout}" for layout in ("FKF", "K", "KF", "FK", "KK", "FF")}

NETS = {
    "quartznet": lambda **fields: sk.QuartzNet(size="5x5", **fields),
    "matchboxnet": lambda **fields: sk.MatchboxNet(labels=("a", "b"), size="3x1x64", **fields),
    "marblenet": lambda **fields: sk.MarbleNet(size="3x2x64", **fields),
}
AUDIO = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))


def quartznet(parts: dict[str, Any]) -> Net:
    frontend = "log_mel:n_mels=16,normalize=fixed"
    return QuartzNet(labels=tuple(" hilo"), blocks=BLOCKS, frontend=frontend, lookahead=1, **parts)


def matchboxnet(parts: dict[str, Any]) -> Net:
    frontend = "mfcc:n_mels=16,n_mfcc=12"
    return MatchboxNet(labels=("a", "b", "c"), blocks=BLOCKS, frontend=frontend, **parts)


CASES = {
    **{f"quartznet {name}": quartznet(parts) for name, parts in (PARTS | TEXT).items()},
    **{f"matchboxnet {name}": matchboxnet(parts) for name, parts in PARTS.items()},
    **{f"matchboxnet {name}": matchboxnet({"head": head}) for name, head in HEADS.items()},
    "matchboxnet af_kan head": matchboxnet({"head": "kan_dense:kan=af_kan"}),
}


def learn(model: Model) -> list[float]:
    """The losses of some steps, which leave every parameter with another value."""
    audio = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.train().parameters(), lr=5e-3)
    losses = []
    for _ in range(6):
        scores, lengths = model(audio, torch.tensor([4000, 2800]))
        if model.per_clip:
            loss = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 2]))
        else:
            targets, target_lengths = torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 2])
            rows = scores.transpose(0, 1)
            loss = torch.nn.functional.ctc_loss(rows, targets, lengths, target_lengths, blank=5)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert torch.isfinite(parameter.grad).all(), name
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@pytest.mark.parametrize("case", CASES)
def test_it_learns_streams_and_comes_back(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = sk.build(CASES[case])
    losses = learn(model)
    assert losses[-1] < losses[0]

    audio = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        scores = model(audio[None]).scores[0]
    streamed = torch.cat(list(stream_scores(model, audio, chunk_s=0.05)))
    # a classifier's last frame is its answer for all of it
    torch.testing.assert_close(
        streamed[-1] if model.per_clip else streamed, scores, rtol=1e-3, atol=1e-4
    )
    ready = sk.prepare(model)
    with torch.inference_mode():
        torch.testing.assert_close(ready(audio[None]).scores[0], scores, rtol=1e-3, atol=1e-4)

    sk.save(model, tmp_path / "model")
    again = sk.load(tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(again(audio[None]).scores[0], scores)


@pytest.mark.parametrize("net", NETS)
def test_rkan_with_zero_gamma_begins_as_the_plain_net(net: str) -> None:
    plain, model = sk.build(NETS[net]()), sk.build(NETS[net](block="rkan:zero_gamma=true"), seed=1)
    blocks = {name: m for name, m in model.encoder.named_children() if isinstance(m, Residual)}
    # a block of the plain net is the body of one with a branch beside it
    state = {
        ".".join([*parts[:2], "body", *parts[2:]]) if parts[1] in blocks else name: value
        for name, value in plain.state_dict().items()
        for parts in [name.split(".")]
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert blocks
    assert missing
    assert not unexpected
    with torch.inference_mode():
        assert torch.equal(model.eval()(AUDIO).scores, plain.eval()(AUDIO).scores)


@pytest.mark.parametrize("net", NETS)
def test_the_first_weights_of_af_kan_are_its_own(net: str) -> None:
    model = sk.build(NETS[net](channel="af_kan"))
    layers = [layer for layer in model.modules() if isinstance(layer, AFKAN)]
    assert len(layers) >= 8
    for layer in layers:
        # uniform, as torch's linear layers begin
        bound = layer.weight.shape[1] ** -0.5
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert layer.reduce.score.weight.abs().max() <= 6**-0.5


@pytest.mark.parametrize("net", NETS)
def test_the_chebyshev_activation_begins_as_tanh(net: str) -> None:
    model = sk.build(NETS[net](activation="kan/cheby"))
    layers = [layer for layer in model.modules() if isinstance(layer, Chebyshev)]
    assert layers
    for layer in layers:
        x = torch.randn(1, len(layer.coefficients), 9, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(layer(x), x.tanh())


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ({"channel": "bspline"}, {"scale"}),
        ({"channel": "cheby"}, {"norm.weight", "norm.bias"}),
        ({"channel": "relu_kan"}, {"low", "high"}),
        ({"channel": "af_kan"}, {"low", "high", "temperature", "norm.weight", "norm.bias"}),
        ({"mixer": "cheb_conv"}, {"scale"}),
        ({"block": "rkan"}, {"kan.scale"}),
        ({"activation": "kan/cheby"}, {"coefficients"}),
    ],
)
def test_bounds_and_scales_are_kept_out_of_weight_decay(
    parts: dict[str, Any], names: set[str]
) -> None:
    model = sk.build(quartznet({**parts, "norm": "none"}))
    decayed, spared = ({id(p) for p in group["params"]} for group in parameter_groups(model))
    own = {n: id(p) for n, p in model.named_parameters() if n.endswith(tuple(names))}
    assert {n for n, p in own.items() if p in decayed} == set()
    assert set(own.values()) == spared
    assert {name for name in names for n in own if n.endswith(name)} == names


@pytest.mark.slow
@pytest.mark.parametrize("case", ["quartznet bspline", "matchboxnet FKF", "matchboxnet rkan"])
def test_a_whole_net_becomes_an_onnx_file(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = sk.build(CASES[case]).eval()
    done = export(model, tmp_path / "model.onnx", "onnx:features=false", [])
    assert done.difference is not None
    assert done.difference < 1e-4


def test_a_folder_names_the_plugin_and_what_to_install(tmp_path: Path) -> None:
    sk.save(sk.build(CASES["quartznet bspline"]), tmp_path / "model")
    without = using(Registry({"SPEECHKIT_PLUGINS": ""}))
    with without, pytest.raises(SpeechkitError, match="pip install speechkit-kan"):
        sk.load(tmp_path / "model")


def test_every_layer_streams_by_what_info_says() -> None:
    from speechkit.models.profile import profile

    for case, config in CASES.items():
        assert profile(sk.build(config)).streamable, case
