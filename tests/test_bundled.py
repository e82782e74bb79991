"""What ships inside the package hears the recordings that ship beside it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import speechkit as sk
from speechkit.card import bundled_folders
from speechkit.config import from_dict, to_dict
from speechkit.data import Utterance, read_audio, read_manifest, read_samples
from speechkit.events import Final
from speechkit.export import example_of
from speechkit.export.native import difference
from speechkit.infer import stream_scores
from speechkit.io.folders import CONFIG, PLAN, WEIGHTS, read_config
from speechkit.limits import MAX_MESSAGE_CHARACTERS
from speechkit.models.net import COMPONENTS
from speechkit.plans.about import About, Facts
from speechkit.plans.source import as_plan
from speechkit.tasks.evaluation import evaluate
from speechkit.tasks.plans import facts_of, plan_of
from speechkit.testing import assert_close

BUNDLED = Path(sk.__file__).parent / "bundled"
CLIPS = read_manifest(BUNDLED / "clips" / "clips.jsonl")
SPOKEN = read_manifest(BUNDLED / "clips" / "spoken.jsonl")
"""Letters and numbers by speakers that `an4` does not know."""
MOST_BYTES = {"an4": 4_000_000}


def test_digits_are_recognised() -> None:
    model = sk.load("digits")
    found = [sk.classify(model, clip.audio).label for clip in CLIPS]
    assert sum(word == clip.label for word, clip in zip(found, CLIPS, strict=True)) >= 9


@pytest.mark.parametrize("silence_s", [1, 2, 10])
def test_silence_around_a_word_changes_no_label(silence_s: float, tmp_path: Path) -> None:
    model, plan = sk.load("digits"), as_plan("digits")
    right, rows = 0, []
    for clip in CLIPS:
        x = np.pad(read_samples(clip.audio, None, 8000), round(8000 * silence_s))
        found, same = sk.classify(model, x, 8000), sk.classify(plan, x, 8000)
        assert found.label == same.label
        assert found.score == pytest.approx(same.score, abs=1e-5)
        right += found.label == clip.label
        path = tmp_path / clip.audio.with_suffix(".wav").name
        soundfile.write(path, x, 8000)
        rows.append(replace(clip, audio=path, duration_s=len(x) / 8000, offset_s=0.0))
    assert right >= 9
    # in batches with padding
    assert evaluate(model, rows, batch_size=4)["accuracy"] == right / len(CLIPS)


def sounds_without_a_digit() -> dict[str, torch.Tensor]:
    """Silence and white noise of 2 s at 8 kHz, by name."""
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    levels_db = (-80, -60, -40, -20)
    loud = {f"noise {db} dB": (noise * 10 ** (db / 20)).clamp(-1, 1) for db in levels_db}
    return {"silence": torch.zeros(16000), **loud}


@pytest.mark.parametrize("name", sounds_without_a_digit())
def test_silence_and_noise_are_no_digit(name: str) -> None:
    model, x = sk.load("digits"), sounds_without_a_digit()[name]
    assert sk.classify(model, x, 8000).label == "background"
    stream = sk.stream(model, 8000)
    assert stream.feed(x) + stream.finish() == []


def test_other_words_are_no_digit() -> None:
    (clip,) = (clip for clip in SPOKEN if clip.text == "m a r k")
    assert sk.classify("digits", clip.audio).label == "unknown"


def test_the_stream_recognises_the_same() -> None:
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


@pytest.mark.parametrize("folder", bundled_folders(), ids=lambda folder: folder.name)
def test_the_components_of_a_bundled_config_are_stored_as_they_were_read(folder: Path) -> None:
    stored = read_config(folder)["config"]
    again = to_dict(sk.load(folder).config)
    for kind in COMPONENTS:
        assert json.dumps(again[kind]) == json.dumps(stored[kind])


@pytest.mark.parametrize("clip", SPOKEN, ids=lambda clip: clip.audio.stem)
@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_words_are_read_whole_and_as_a_stream(clip: Utterance, decoder: str) -> None:
    model = sk.load("an4")
    assert model.latency_s <= 0.4
    whole = sk.transcribe(model, clip.audio, decoder=decoder)
    assert whole.text == clip.text
    audio = read_audio(clip.audio, target_rate=model.sample_rate)
    session = sk.stream(model, decoder=decoder)
    events = [event for part in audio.split(1280) for event in session.feed(part)]
    events += session.finish()
    finals = [event for event in events if isinstance(event, Final)]
    assert [final.text for final in finals] == [clip.text]
    for found, word in zip(finals[0].words, whole.words, strict=True):
        assert replace(found, score=word.score) == word
        assert abs(found.score - word.score) < 1e-4


FOLDERS = [pytest.param(f, id=f.name) for f in bundled_folders()]


@pytest.mark.parametrize("folder", FOLDERS)
def test_models_are_small(folder: Path) -> None:
    size = sum((folder / name).stat().st_size for name in (CONFIG, WEIGHTS))
    assert size <= MOST_BYTES.get(folder.name, 400_000)
    # git keeps every version of a plan
    assert (folder / PLAN).stat().st_size <= MOST_BYTES.get(folder.name, 430_000)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_card_is_complete(folder: Path) -> None:
    card = sk.bundled_models()[folder.name]
    # `measured` and what else is empty would be absent from the page and from `info`
    assert all(vars(card).values())
    assert len(f"note: {folder.name} {card.purpose}") <= MAX_MESSAGE_CHARACTERS
    for score in card.scores:
        assert score.on
        assert score.command or "kept apart" in score.on


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_plan_beside_a_bundled_model_is_what_export_writes(folder: Path) -> None:
    model, plan = sk.load(folder), as_plan(folder)
    assert plan is not None, "type: make plans"
    again = plan_of(model)
    assert plan.about == from_dict(About, to_dict(again.about))
    assert plan.facts == from_dict(Facts, to_dict(facts_of(model, folder)))
    for own, new in ((plan.program, again.program), (plan.clip_program, again.clip_program)):
        np.testing.assert_array_equal(own, new)
    np.testing.assert_allclose(plan.weights, again.weights, rtol=1e-5, atol=1e-7)
    assert difference(plan, model, example_of(model)) < 1e-5


def test_the_published_hashes_are_those_of_the_files() -> None:
    lines = (BUNDLED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    published = dict(reversed(line.split("  ")) for line in lines)
    files = [f / name for f in bundled_folders() for name in (CONFIG, WEIGHTS, PLAN)]
    assert published == {
        file.relative_to(BUNDLED).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
