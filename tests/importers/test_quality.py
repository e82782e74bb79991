"""The imported QuartzNet 15x5 reads real speech, whole and through the approximate window."""

import os
from pathlib import Path

import pytest

import speechkit as sk
from speechkit import text
from speechkit.data import Utterance, read_audio, read_manifest
from speechkit.events import Final
from speechkit.importers import read_model
from speechkit.models import Model
from speechkit.tasks import metrics

DATA = Path(os.environ.get("SPEECHKIT_DATA", "absent"))
FILE = DATA / "peers" / "quartznet15x5_en_folded_fp16.safetensors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILE.is_file(), reason="SPEECHKIT_DATA names no folder with the file"),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return read_model(FILE).eval()


def test_an4_speakers_are_read(model: Model) -> None:
    chosen = read_manifest(DATA / "an4" / "train" / "manifest.jsonl")[::4]
    texts = [sk.transcribe(model, utterance.audio, vad=None).text for utterance in chosen]
    wer = metrics.wer([text.normalize(utterance.text) for utterance in chosen], texts)
    print(f"AN4: WER {wer:.4f} on {len(chosen)} utterances of 74 speakers")
    assert wer <= 0.18


def test_a_window_is_nearly_as_accurate_as_the_whole(model: Model) -> None:
    dev = read_manifest(DATA / "mini_librispeech" / "dev.jsonl")
    chosen = [utterance for utterance in dev if utterance.duration_s > 10][::5]
    references = [text.normalize(utterance.text) for utterance in chosen]
    whole = metrics.wer(references, [sk.transcribe(model, u.audio, vad=None).text for u in chosen])
    windowed = metrics.wer(references, [streamed(model, utterance) for utterance in chosen])
    print(f"mini_librispeech dev: WER {whole:.4f}, windowed {windowed:.4f} on {len(chosen)}")
    assert windowed <= whole + 0.015


def streamed(model: Model, utterance: Utterance) -> str:
    session = sk.stream(model, window_s=8, right_s=2, hop_s=2, vad=None)
    assert session.latency_s <= 4
    events = session.feed(read_audio(utterance.audio)) + session.finish()
    return " ".join(event.text for event in events if isinstance(event, Final))
