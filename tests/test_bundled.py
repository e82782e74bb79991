"""What ships inside the package hears the recordings that ship beside it."""

from pathlib import Path

import torch

import speechkit as sk
from speechkit.data import read_audio, read_manifest
from speechkit.infer import stream_scores
from speechkit.testing import assert_close

BUNDLED = Path(sk.__file__).parent / "bundled"
CLIPS = read_manifest(BUNDLED / "clips" / "clips.jsonl")


def test_digits_are_heard() -> None:
    model = sk.load("digits")
    heard = [sk.classify(model, clip.audio).label for clip in CLIPS]
    assert sum(word == clip.label for word, clip in zip(heard, CLIPS, strict=True)) >= 9


def test_the_stream_hears_the_same() -> None:
    model = sk.load("digits")
    for clip in CLIPS[:3]:
        audio = read_audio(clip.audio, target_rate=model.sample_rate)
        with torch.inference_mode():
            offline = model(audio[None]).scores[0]
        for chunk_s in (0.01, 0.08):
            streamed = torch.cat(list(stream_scores(model, audio, chunk_s)))[-1]
            assert_close("scores", offline, streamed, 1e-5)


def test_sixteen_kilohertz_sounds_the_same() -> None:
    model = sk.load("digits")
    audio = read_audio(CLIPS[2].audio, target_rate=16000)
    assert sk.classify(model, audio, 16000).label == CLIPS[2].label


def test_models_are_small_and_have_a_card() -> None:
    for folder in (BUNDLED / "models").iterdir():
        assert sum(f.stat().st_size for f in folder.glob("*.*") if f.suffix != ".md") <= 400_000
        card = (folder / "README.md").read_text(encoding="utf-8")
        for word in ("data", "licence of the data", "licence of the weights", "command", "seed"):
            assert f"| {word} |" in card
        assert "## Limits" in card
