"""Blocks of a trained net become `mod` where the rank of their updates is low."""

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from speechkit_residuals.mod import Routed

import speechkit as sk
from speechkit.data import Utterance, write_manifest
from speechkit.errors import ConfigError
from speechkit.infer import stream_scores
from speechkit.models import Block, Net
from speechkit.probes import Examples, probe
from speechkit.train import Data, Run, fit
from speechkit.transforms import transform

NETS: dict[str, Net] = {
    "quartznet": sk.QuartzNet(labels=tuple(" ab"), size="5x5"),
    "matchboxnet": sk.MatchboxNet(labels=("a", "b"), size="3x1x64"),
    "marblenet": sk.MarbleNet(size="3x2x64"),
}
AUDIO = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    chance = torch.Generator().manual_seed(0)
    rows = []
    for count in (4000, 6000, 8000):
        path = tmp_path / f"{count}.wav"
        soundfile.write(path, (0.1 * torch.randn(count, generator=chance)).numpy(), 16000)
        rows.append(Utterance(audio=path, duration_s=count / 16000, text="ab"))
    write_manifest(tmp_path / "train.jsonl", rows)
    return tmp_path / "train.jsonl"


@pytest.fixture
def model() -> sk.Model:
    """A net of five blocks; the update of block 2 has the rank 1, that of block 3 the next."""
    rows = (
        Block(channels=8, kernel=5, stride=2),
        Block(channels=8, kernel=5, residual=True, copies=5),
    )
    frontend = "log_mel:n_mels=16,normalize=fixed"
    config = sk.QuartzNet(
        labels=tuple(" ab"), blocks=rows, frontend=frontend, lookahead=(0, 1, 0, 1, 0, 1)
    )
    model = sk.build(config, seed=1).eval()
    with torch.no_grad():
        for index, rank in ((2, 1), (3, 2)):
            residual = model.encoder.get_submodule(f"{index}.sum")
            # a ReLU of the input, which is at least 0, and of `rank` channels more
            gain = (1 + residual.shortcut.norm.eps) ** 0.5
            residual.shortcut.channel.weight.copy_(gain * torch.eye(8))
            residual.body[-1].channel.weight.abs_()[rank:] = 0
            residual.body[0].mixer.weight.abs_()
    return model


@pytest.mark.parametrize("name", NETS)
def test_paper_102_no_score_changes_before_training(name: str, manifest: Path) -> None:
    model = sk.build(NETS[name], seed=1).eval()
    examples = Examples(model, manifest)
    made, (applied,) = transform(model, ["mod_layers:layers=1,keep_first=1"], examples)
    with torch.no_grad():
        assert torch.equal(made(AUDIO).scores, model(AUDIO).scores)
    assert [row for row, _ in made.config.rows() if row.block is not None]
    assert made.latency_s == model.latency_s
    (block,) = applied.report["blocks"]
    added = [k for k in made.state_dict() if k not in model.state_dict() and "routed" in k]
    assert added
    assert all(key.startswith(f"encoder.{block}.routed.") for key in added)


def test_paper_102_the_blocks_of_lowest_rank_are_chosen(model: sk.Model, manifest: Path) -> None:
    examples = Examples(model, manifest)
    ranks = probe(model, ["arank"], examples)["arank"]
    assert float(ranks["2"]) == pytest.approx(1, abs=1e-3)
    name = "mod_layers:layers={},keep_first={},keep_last={},capacity=0.25,expand=2"
    for (layers, first, last), blocks in {
        (1, 0, 0): [2],
        (2, 0, 0): [2, 3],
        (1, 3, 1): [3],
        (2, 0, 3): sorted(sorted(range(2), key=lambda n: ranks[str(n)])[:2]),
    }.items():
        made, (applied,) = transform(model, [name.format(layers, first, last)], examples)
        assert applied.report["blocks"] == blocks
        assert applied.report["ranks"] == pytest.approx({n: float(x) for n, x in ranks.items()})
        routed = {n.split(".")[1]: m for n, m in made.named_modules() if isinstance(m, Routed)}
        assert list(routed) == list(map(str, blocks))
        assert {layer.capacity for layer in routed.values()} == {0.25}
        assert [ahead for _, ahead in made.config.rows()] == [0, 1, 0, 1, 0, 1]


def test_paper_102_the_result_trains_streams_and_loads(
    model: sk.Model, manifest: Path, tmp_path: Path
) -> None:
    made, applied = transform(model, ["mod_layers:layers=1"], Examples(model, manifest))
    sk.save(made, tmp_path / "made", transforms=applied)
    run = Run(
        model=made.config,
        data=Data(train=manifest, dev=manifest),
        steps=3,
        optimizer="adamw:lr=0.01",
        method=("mod_router",),
        start_from=tmp_path / "made",
    )
    fit(run, tmp_path / "out", device="cpu")
    trained = sk.load(tmp_path / "out" / "last")
    with torch.no_grad():
        scores = trained(AUDIO).scores
        assert not torch.equal(scores, made(AUDIO).scores)
    streamed = torch.cat(list(stream_scores(trained, AUDIO[0], chunk_s=0.05)))
    torch.testing.assert_close(streamed, scores[0], rtol=1e-3, atol=1e-4)
    for key, value in made.state_dict().items():
        if "routed" in key and key.endswith("weight"):
            assert not torch.equal(value, trained.state_dict()[key]), key


def test_what_does_not_fit_is_one_line(model: sk.Model, manifest: Path) -> None:
    with pytest.raises(ConfigError, match="mod_layers needs recordings"):
        transform(model, ["mod_layers:layers=1"])
    examples = Examples(model, manifest)
    for name in ("mod_layers:layers=2", "mod_layers:layers=0"):
        with pytest.raises(ConfigError, match=r"layers=\d; 1 of the encoder's 5 blocks"):
            transform(model, [name], examples)
    other = sk.build(replace(model.config, block="identity")).eval()
    with pytest.raises(ConfigError, match="takes a net with block=core/plain, not block=resid"):
        transform(other, ["mod_layers:layers=1"], Examples(other, manifest))
