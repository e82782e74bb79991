"""Grids that follow the data, pruned edges, formulas and pictures."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import soundfile
import torch
from speechkit_kan.bspline import BSplineKAN
from speechkit_kan.calibration import KanGrids, edge_layers, update_grids
from speechkit_kan.plot import strongest, svg
from speechkit_kan.symbolic import symbolic
from torch import Tensor

import speechkit as sk
from speechkit.cli import main
from speechkit.data import Utterance
from speechkit.errors import ComponentError, ConfigError, TrainingError
from speechkit.models import Block, Model
from speechkit.nn import Chunk
from speechkit.probes import Examples
from speechkit.testing import assert_close
from speechkit.transforms import transform


def model(channel: str = "bspline", seed: int = 0) -> Model:
    torch.manual_seed(seed)
    blocks = (
        Block(channels=6, kernel=5, stride=2),
        Block(channels=6, kernel=3, residual=True),
        Block(channels=6, kernel=1, separable=False),
    )
    frontend = "log_mel:n_mels=8,normalize=fixed"
    config = sk.MatchboxNet(labels=("a", "b"), blocks=blocks, frontend=frontend, channel=channel)
    return sk.build(config)


@pytest.fixture
def audio() -> Tensor:
    return 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("squash", ["none", "tanh"])
def test_a_grid_moves_to_the_data_and_the_edges_stay(squash: str) -> None:
    torch.manual_seed(0)
    layer = BSplineKAN(3, 2, squash=squash).double()
    inside = torch.randn(400, 3, generator=torch.Generator().manual_seed(1)).double() * 0.2 + 0.1
    # a cubic, which is a spline on any grid
    with torch.no_grad():
        at = layer.squash(inside)
        cubic = torch.stack([at, at.square(), at.pow(3)], -1) @ torch.tensor([1.0, -2, 3]).double()
        features = layer.features(inside)[..., 1:].transpose(0, 1)
        fitted = torch.linalg.lstsq(features, cubic.T[..., None], driver="gelsd").solution
        layer.coefficients.copy_(fitted.squeeze(2))
    before, knots = layer.edges(inside).detach(), layer.knots.clone()
    layer.update_grid(inside)
    assert_close("edges", before, layer.edges(inside).detach(), 1e-6)
    assert not torch.equal(knots, layer.knots)
    assert (layer.knots.diff(dim=1) > 0).all()
    low, high = layer.knots[:, 3], layer.knots[:, -4]
    assert (low < layer.squash(inside).amin(0)).all()
    assert (high > layer.squash(inside).amax(0)).all()
    counts = torch.stack(
        [
            torch.bincount(torch.bucketize(x, k))
            for x, k in zip(
                layer.squash(inside).T.contiguous(), layer.knots[:, 4:-4].contiguous(), strict=True
            )
        ]
    )
    assert counts.min() > 60, "each of the 5 intervals holds about 80 of 400 frames"


def test_a_grid_is_part_of_the_state_dict() -> None:
    layer, other = BSplineKAN(3, 2), BSplineKAN(3, 2)
    layer.update_grid(torch.randn(50, 3))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.knots, layer.knots)
    c = Chunk.of(torch.randn(1, 3, 20))
    assert torch.equal(layer(c).x, other(c).x)


def test_a_grid_of_few_frames_is_finite() -> None:
    layer = BSplineKAN(3, 2)
    layer.update_grid(torch.zeros(2, 3))
    assert all(torch.isfinite(value).all() for value in layer.state_dict().values())


def test_a_models_grids_move_and_its_norms_do_not(audio: Tensor) -> None:
    net = model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    scores = net.train()(audio).scores
    net.load_state_dict(before)
    update_grids(net, audio, torch.tensor([4000, 3000]))
    changed = {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {name.rpartition(".")[2] for name in changed} == {"knots", "coefficients"}
    assert len([name for name in changed if name.endswith("knots")]) == 3
    # the splines start as noise, which another grid follows roughly
    assert_close("scores", scores, net.train()(audio).scores, 0.1)


def test_pruning_keeps_the_edges_that_matter(audio: Tensor, tmp_path: Path) -> None:
    net = model().eval()
    for layer in edge_layers(net).values():
        assert isinstance(layer, BSplineKAN)
        with torch.no_grad():
            layer.base[:, ::2] *= 1e-9
            layer.coefficients[:, ::2] *= 1e-9
    utterances = []
    for index, row in enumerate(audio):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, row.numpy(), 16000)
        utterances.append(Utterance(audio=path, duration_s=0.25))
    examples = Examples(net, utterances)
    pruned, (applied,) = transform(net, ["kan_prune:keep=0.5"], examples)
    kept = {name: layer.kept for name, layer in edge_layers(pruned).items()}
    assert not any(edges[:, ::2].any() for edges in kept.values())
    assert all(edges[:, 1::2].all() for edges in kept.values())
    assert all(layer.kept.all() for layer in edge_layers(net).values())
    edges = sum(edges.numel() for edges in kept.values())
    assert applied.report == {
        "edges": edges,
        "kept": {name: edges.numel() // 2 for name, edges in kept.items()},
    }
    assert_close("scores", net(audio).scores, pruned(audio).scores, 1e-5)
    fewest, _ = transform(pruned, ["kan_prune:keep=0.01,utterances=1"], examples)
    assert all(int(layer.kept.sum()) == 1 for layer in edge_layers(fewest).values())
    assert not torch.allclose(fewest(audio).scores, pruned(audio).scores, atol=1e-3)
    with pytest.raises(ComponentError, match="keep=0; give a share above 0"):
        transform(net, ["kan_prune:keep=0"], examples)
    with pytest.raises(ConfigError, match="kan_prune needs recordings; give --manifest M"):
        transform(net, ["kan_prune"])


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        (lambda x: 2 * x - 1, "2 x-1"),
        (lambda x: torch.zeros_like(x) + 0.25, "0.25"),
        (lambda x: 3 * (x - 0.5).square(), "3 (x-0.5)^2"),
        (lambda x: torch.sin(2 * x), "1 sin(2x)"),
        (lambda x: -torch.tanh(1.5 * x) + 2, "-1 tanh(1.5x)+2"),
        (lambda x: (0.5 * x).exp(), "1 exp(0.5x)"),
        (lambda x: x.clamp(min=0), "1 max(x, 0)"),
    ],
)
def test_an_edge_as_a_formula(function: Callable[[Tensor], Tensor], formula: str) -> None:
    x = torch.linspace(-3, 3, 121)
    fit = symbolic(x, function(x))
    assert fit.formula == formula
    assert fit.r2 > 0.9999


def test_the_strongest_edges_and_their_picture() -> None:
    net = model("cheby:norm=none")
    name, layer = next(iter(edge_layers(net).items()))
    with torch.no_grad():
        layer.coefficients.zero_()
        layer.coefficients[2, 1, 1] = 2
        layer.coefficients[0, 3, 2] = 1
        layer.coefficients[4, 4, 1] = 5
        layer.kept[4, 4] = False
    edges = list(strongest(name, layer, 2))
    assert [(edge.c_out, edge.c_in) for edge in edges] == [(2, 1), (0, 3)]
    assert edges[0].fit.formula.startswith("2 tanh(x)")
    page = ElementTree.fromstring(svg(edges))
    curves = page.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(curves) == 2
    first, *_, last = curves[0].attrib["points"].split()
    assert float(first.split(",")[1]) > float(last.split(",")[1]), "tanh rises"


def test_the_command_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sk.save(model(), tmp_path / "model")
    arguments = ["kan-plot", str(tmp_path / "model"), str(tmp_path / "edges.svg"), "--edges", "2"]
    assert main.run(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 * 2
    assert (tmp_path / "edges.svg").read_text(encoding="utf-8").startswith("<svg")
    assert main.run([*arguments, "--json"]) == 0
    assert '"formula"' in capsys.readouterr().out

    sk.save(model("linear"), tmp_path / "plain")
    assert main.run(["kan-plot", str(tmp_path / "plain"), str(tmp_path / "no.svg")]) == 1
    assert "no layer with edges" in capsys.readouterr().err


def test_the_method_moves_grids_before_the_first_step(audio: Tensor) -> None:
    class Recordings:
        def __len__(self) -> int:
            return 10

        def audio(self, index: int) -> Tensor:
            return audio[0, : 4000 - 100 * index]

    net = model()
    before = [layer.knots.clone() for layer in edge_layers(net).values()]
    method = KanGrids(utterances=3)
    method.start(net, Recordings())
    moved = [layer.knots for layer in edge_layers(net).values()]
    assert not any(map(torch.equal, before, moved))
    with pytest.raises(TrainingError, match="method kan_grids needs a layer bspline"):
        method.start(model("linear"), Recordings())
