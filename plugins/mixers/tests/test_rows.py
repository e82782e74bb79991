"""One row of each family's net may have a layer of this package: it learns, streams, comes back."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import speechkit as sk
from speechkit.infer import stream_scores
from speechkit.models import Net
from speechkit.plugins import registry
from speechkit.testing.native import check_native_net

NETS = {
    "quartznet": partial(sk.QuartzNet, size="5x5"),
    "matchboxnet": partial(sk.MatchboxNet, labels=("a", "b"), size="3x1x64"),
    "marblenet": partial(sk.MarbleNet, size="3x2x64"),
}
MIXERS = [
    "attention:window=24",
    "attention:weight=rela",
    "elstm",
    "hyperzzw_running",
    "lambda",
    "lru",
    "multires",
    "random_graph_rnn:nodes=12",
    "retention",
    "sic",
    "sla",
    "trellis:levels=4",
]
BLOCKS = [
    "block_recurrent:window=8",
    "encoder:window=24",
    "rcl",
    "rglru",
    "rin:window=8,gain=1",
    "rrcl",
    "spatial_bottleneck",
    "trec:bands=2,heads=2",
]
CHANNELS = ["kv_memory", "moe_relu:experts=4,hidden=8", "topo"]
KINDS = {"mixer": MIXERS, "block": BLOCKS, "channel": CHANNELS}
ROWS = [(kind, name) for kind, names in KINDS.items() for name in names]
AUDIO = 0.1 * torch.randn(2, 3200, generator=torch.Generator().manual_seed(0))


def with_row(net: str, part: str, name: str) -> Net:
    """The net whose second row has the layer, and whose frames read no whole utterance."""
    config = NETS[net](frontend="log_mel:normalize=fixed")
    rows = list(config.blocks)
    rows[1] = replace(rows[1], **{part: f"mixers/{name}"})
    return replace(config, size="custom", blocks=tuple(rows))


@pytest.mark.parametrize(("part", "name"), ROWS)
@pytest.mark.parametrize("net", NETS)
def test_a_gradient_reaches_every_weight(net: str, part: str, name: str) -> None:
    model = sk.build(with_row(net, part, name)).train()
    scores = model(AUDIO, torch.tensor([3200, 2000])).scores
    scores.square().mean().backward()
    for parameter, weight in model.named_parameters():
        assert weight.grad is not None, f"no gradient reaches {parameter}"
        assert weight.grad.isfinite().all(), parameter


@pytest.mark.parametrize(("part", "name"), ROWS)
@pytest.mark.parametrize("net", ["matchboxnet", "marblenet"])
def test_it_streams(net: str, part: str, name: str) -> None:
    model = sk.build(with_row(net, part, name))
    with torch.inference_mode():
        offline = model.eval()(AUDIO[:1]).scores[0]
    streamed = torch.cat(list(stream_scores(model, AUDIO[0], chunk_s=0.05)))
    if streamed.shape != offline.shape:
        # of a clip, the last score of a stream is that of all of it
        streamed = streamed[-1]
    torch.testing.assert_close(streamed, offline, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("part", "name"), ROWS)
def test_a_saved_model_gives_the_same_scores(part: str, name: str, tmp_path: Path) -> None:
    model = sk.build(with_row("marblenet", part, name)).eval()
    sk.save(model, tmp_path / "model")
    again = sk.load(tmp_path / "model")
    assert again.config == model.config
    with torch.inference_mode():
        assert torch.equal(again(AUDIO).scores, model(AUDIO).scores)


@pytest.mark.parametrize(("part", "name"), ROWS)
def test_a_native_step_computes_the_same(part: str, name: str) -> None:
    row = sk.Block(channels=24, kernel=5, repeat=2, residual=True, **{part: f"mixers/{name}"})  # type: ignore[arg-type]
    first = sk.Block(channels=24, kernel=5, stride=2)
    last = sk.Block(channels=20, kernel=3, residual=True)
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=(first, row, last)))


def test_all_layers_that_stream_are_among_them() -> None:
    known = {
        (entry.kind, entry.component.name)
        for entry in registry().components()
        if entry.plugin == "mixers" and entry.kind in KINDS and entry.component.time != "utterance"
    }
    assert {(kind, name.partition(":")[0]) for kind, name in ROWS} == known
