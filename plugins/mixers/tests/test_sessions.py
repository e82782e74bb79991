"""Nets with such a row give one answer: whole, from the command line, and in chunks of any size."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import speechkit as sk
from speechkit.cli.main import run
from speechkit.frontend import Resample
from speechkit.models.net import Net
from speechkit.nn import Chunk, Serial
from speechkit.plans.resample import at_rate
from speechkit.plans.scorer import PlanScorer
from speechkit.rules.vad import PostProcessing
from speechkit.tasks.plans import plan_of

ROWS = {
    "attention": {"mixer": "attention:window=50"},
    "recurrence": {"mixer": "lru"},
    "blocks with a memory": {"block": "block_recurrent:window=30"},
    "blocks that wait": {"block": "rin:window=12,gain=1"},
}
RATE = 16000


def net(row: dict[str, str], family: str) -> Net:
    blocks = (
        sk.Block(channels=16, kernel=5, stride=2),
        sk.Block(channels=16, kernel=9, residual=True, **row),
        sk.Block(channels=16, kernel=1, separable=False),
    )
    if family == "vad":
        return sk.MarbleNet(blocks=blocks, frame_level=True)
    return sk.QuartzNet(blocks=blocks, frontend="log_mel:normalize=running")


def sound(seconds: float) -> NDArray[np.float32]:
    """Noise that comes and goes."""
    chance = np.random.default_rng(0)
    levels = np.repeat(chance.uniform(0.001, 0.3, round(seconds * 8)), RATE // 8)
    return (levels * chance.standard_normal(len(levels))).clip(-1, 1).astype(np.float32)


@pytest.fixture(params=ROWS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two models with this row, and a recording."""
    for family in ("vad", "asr"):
        model = sk.build(net(ROWS[request.param], family), seed=1).eval()
        if family == "vad":
            # the threshold is the median, so that there are segments
            scores = model(torch.from_numpy(sound(4))[None]).scores[0].softmax(-1)[:, 1]
            middle = scores.median().item()
            rule = PostProcessing(onset=middle, offset=middle)
            config = replace(model.config, postprocess=rule)
            plain = sk.build(config)
            plain.load_state_dict(model.state_dict())
            model = plain.eval()
        sk.save(model, tmp_path / family)
    soundfile.write(tmp_path / "sound.wav", sound(4), RATE, subtype="FLOAT")
    return tmp_path


def printed(capfd: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, object]]:
    capfd.readouterr()
    assert run([str(argument) for argument in arguments]) == 0
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_listening_finds_the_speech_that_vad_finds(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, model = folder / "sound.wav", folder / "vad"
    (whole,) = printed(capfd, "vad", file, "--model", model, "--json")
    live = printed(capfd, "listen", "--file", file, "--model", model, "--json")
    edges = [row["at_s"] for row in live if str(row["event"]).startswith("speech_")]
    assert edges == [edge for segment in whole["segments"] for edge in segment]
    assert len(edges) > 2


def test_listening_finds_the_text_that_transcribe_finds(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, model = folder / "sound.wav", folder / "asr"
    (whole,) = printed(capfd, "transcribe", file, "--model", model, "--no-vad", "--json")
    live = printed(capfd, "listen", "--file", file, "--model", model, "--no-vad", "--json")
    texts = [str(row["text"]) for row in live if row["event"] == "final"]
    assert " ".join(texts) == whole["text"] != ""


@pytest.mark.parametrize("seed", range(3))
def test_chunks_of_any_size_give_the_same(folder: Path, seed: int) -> None:
    model = sk.load(folder / "vad")
    x = sound(4)
    cuts = np.sort(np.random.default_rng(seed).choice(len(x), 30, replace=False))
    wanted, stream = sk.stream(model), sk.stream(model)
    events = [event for a, b in pairwise([0, *cuts, len(x)]) for event in stream.feed(x[a:b])]
    assert events + stream.finish() == wanted.feed(x) + wanted.finish()
    np.testing.assert_array_equal(stream.scores, wanted.scores)
    assert events


def test_a_plan_at_another_rate_has_the_scores_of_torch(folder: Path) -> None:
    model = sk.load(folder / "vad")
    found = at_rate(plan_of(model), 8000)
    x = sound(1)
    layer = Serial(resample=Resample(8000, RATE), net=model.stream_layer())
    with torch.no_grad():
        expected = layer(Chunk.of(torch.from_numpy(x)[None, None])).x[0].T.numpy()
    scores = np.concatenate([*PlanScorer(found).parts([x])])
    np.testing.assert_allclose(scores, expected, atol=1e-4 * np.abs(expected).max())
