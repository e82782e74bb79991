"""What decided on one recording."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from speechkit_probes.explanation import explain, parts
from typer.testing import CliRunner

import speechkit as sk
from speechkit.cli.main import app
from speechkit.data import read_samples
from speechkit.errors import ConfigError

Corpus = Callable[..., Path]


def test_parts_are_the_fewest_frames_that_hold_the_share() -> None:
    weights = torch.tensor([0.0, 4, 0, 0, 0, 3, 0, 3, 0, 0])
    first, second, _ = parts(weights, 0.05, 0.9)
    assert (first.start_s, first.end_s, first.share) == pytest.approx((0.05, 0.1, 0.4))
    # frames 5 and 7 are two frames apart, more than 60 ms
    assert (second.start_s, second.end_s) == pytest.approx((0.25, 0.3))
    joined = parts(weights, 0.03, 0.9)
    assert [(round(p.start_s, 2), round(p.end_s, 2)) for p in joined] == [
        (0.03, 0.06),
        (0.15, 0.24),
    ]
    assert joined[1].share == pytest.approx(0.6)
    assert len(parts(weights, 0.03, 0.4)) == 1
    assert parts(torch.zeros(4), 0.03, 0.5) == []


def test_the_sound_that_decides_is_found() -> None:
    clip = Path(sk.__file__).parent / "bundled" / "clips" / "0_george_0.flac"
    word = read_samples(clip, target_rate=8000)
    silence = np.random.default_rng(0).normal(0, 1e-4, 4000).astype(np.float32)
    found = explain(sk.load("digits"), np.concatenate([silence, word, silence]))
    assert found.labels == ("zero",)
    end_s = 0.5 + len(word) / 8000
    for part in found.parts:
        assert 0.4 < part.start_s < part.end_s < end_s + 0.1
    assert found.attribution.shape == found.features.shape


@pytest.mark.parametrize("name", ["vad", "an4", "digits"])
def test_bundled_models_are_explained(name: str, tmp_path: Path) -> None:
    clip = Path(sk.__file__).parent / "bundled" / "clips" / "0_george_0.flac"
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["explain", name, str(clip), "--out", str(page), "--json"])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert (
        row["labels"] == {"vad": ["speech"], "an4": ["z", "e", "r", "o"], "digits": ["zero"]}[name]
    )
    assert row["text"] == {"vad": "speech", "an4": "zero", "digits": "zero"}[name]
    text = page.read_text(encoding="utf-8")
    assert f">{row['text']}<" in text
    assert text.count("<audio") == 1 + len(row["parts"])
    assert not re.search(r"(src|href)=\"?https?:", text), "nothing is loaded from elsewhere"


def test_a_long_recording_is_refused(model: sk.Model) -> None:
    with pytest.raises(ConfigError, match="has 61 s; give a part of at most 60"):
        explain(model, np.zeros(61 * 16000, np.float32))


def test_a_recording_is_not_overwritten(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    given = str(tmp_path / "a.wav")
    done = CliRunner().invoke(app, ["explain", "digits", given, "--out", given])
    assert done.exit_code == 1
    assert soundfile.info(given).frames == 8000
