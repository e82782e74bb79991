"""The words recipe: what is put around a word, the corpora's parts, and the judge's figures."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

import speechkit as sk
from speechkit.data import Utterance, read_manifest
from speechkit.events import Keyword
from speechkit.rules.spotting import Spotting, State, advance

RECIPE = Path(__file__).parents[2] / "recipes" / "words"
RATE = 8000
CLIPS = Path(sk.__file__).parent / "bundled" / "clips" / "clips.jsonl"


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    for other in ("corpora", "surroundings", name):
        sys.modules.pop(other, None)
    return importlib.import_module(name)


@pytest.fixture
def sounds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module("surroundings", monkeypatch)


def tone(seconds: float, hz: float = 500) -> np.ndarray:
    return 0.2 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def word() -> np.ndarray:
    """0.3 s of a tone in the middle of a second."""
    faint = 1e-4 * np.random.default_rng(0).standard_normal(RATE)
    faint[2800:5200] += tone(0.3)
    return faint


def test_a_word_is_cut_where_its_sound_is(sounds: ModuleType) -> None:
    x = sounds.trimmed(word())
    assert 0.3 <= len(x) / RATE <= 0.42
    assert sounds.rms(x) > 0.1


@pytest.mark.parametrize("kind", ["silence", "floor", "noise", "words"])
def test_the_word_is_whole_within_its_surroundings(sounds: ModuleType, kind: str) -> None:
    noise, talk = (np.random.default_rng(seed).standard_normal(RATE) for seed in (1, 2))
    around = sounds.Surroundings(noise=[noise], talk=[talk], rooms=[])
    x = sounds.trimmed(word())
    for seed in range(5):
        y = around.around(word(), np.random.default_rng(seed), kind)
        assert 0.1 <= (len(y) - len(x)) / RATE <= 2.0
        best = np.correlate(y, x).max() / np.square(x).sum()
        assert 0.8 < best < 1.2


def test_noise_is_as_far_below_the_word_as_asked(sounds: ModuleType) -> None:
    noise = np.random.default_rng(1).standard_normal(RATE)
    around = sounds.Surroundings(noise=[noise], talk=[], rooms=[], snr_db=(10, 10))
    y = around.around(tone(0.5), np.random.default_rng(0), "noise")
    bed = sounds.rms(y[: RATE // 20])
    assert 20 * np.log10(sounds.rms(tone(0.5)) / bed) == pytest.approx(10, abs=1)


def test_a_room_keeps_level_and_length(sounds: ModuleType) -> None:
    room = np.concatenate([np.zeros(50), [1.0], np.zeros(400), [0.5]])
    y = sounds.reverberate(word(), room)
    assert len(y) == RATE
    assert sounds.rms(y) == pytest.approx(sounds.rms(word()))
    begins, began = (np.flatnonzero(np.abs(x) > 0.02)[0] for x in (y, word()))
    assert abs(begins - began) < 10


def test_a_telephone_has_no_sound_outside_its_band(sounds: ModuleType) -> None:
    low, middle = (sounds.telephone(tone(1, hz), np.random.default_rng(0)) for hz in (100, 1000))
    assert sounds.rms(low + 1e-9) < 0.8
    spectrum = np.abs(
        np.fft.rfft(sounds.telephone(tone(1, 100) + tone(1), np.random.default_rng(0)))
    )
    assert spectrum[100] < 0.01 * spectrum[500]
    assert np.abs(middle).max() <= 1


def test_the_parts_of_the_field_are_whole_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = module("corpora", monkeypatch)
    rows = [
        {"source": "wesnoth", "kind": "music", "duration": 2.0},
        {
            "source": "zaz",
            "kind": "music",
            "duration": 2.0,
            "clips": [["a", 0, 0.5], ["b", 0.5, 2]],
        },
        {"source": "tuxpaint_symbols", "kind": "speech-unlabelled", "duration": 2.0},
        {"source": "kerstin_de", "kind": "speech-unlabelled", "duration": 2.0},
    ]
    (tmp_path / "field").mkdir()
    soundfile.write(tmp_path / "field" / "a.wav", tone(2), RATE)
    lines = [json.dumps({**row, "audio_filepath": "a.wav"}) + "\n" for row in rows]
    (tmp_path / "field" / "manifest.jsonl").write_text("".join(lines))
    found = [(part, clip.offset_s, clip.duration_s) for part, _, clip in corpora.noise(tmp_path)]
    assert found == [("test", 0.0, 2.0), ("train", 0, 0.5), ("train", 0.5, 1.5)]
    # spoken digits are no unknown words
    assert [clip.speaker for _, clip in corpora.talk(tmp_path)] == ["field-kerstin_de"]


def test_speech_with_one_of_the_words_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = module("corpora", monkeypatch)
    (tmp_path / "mini_librispeech").mkdir()
    soundfile.write(tmp_path / "mini_librispeech" / "a.wav", tone(2), RATE)
    lines = [
        json.dumps({"audio_filepath": "a.wav", "duration": 2.0, "text": text, "speaker": speaker})
        for text, speaker in (("he went on", "7"), ("she sang", "7"), ("they sang", "118"))
    ]
    (tmp_path / "mini_librispeech" / "train.jsonl").write_text("\n".join(lines) + "\n")
    found = [(part, clip.text) for part, clip in corpora.talk(tmp_path)]
    assert found == [("train", "she sang"), ("dev", "they sang")]


def test_few_clips_of_unknown_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = module("prepare", monkeypatch)
    rows = [
        Utterance(audio=Path("/a.wav"), duration_s=1.0, label=label)
        for label in [*["one"] * 4, *["bed"] * 20, "background"]
    ]
    labels = [u.label for u in prepare.relabelled(rows, ("one",))]
    assert labels == [*["one"] * 4, *["unknown"] * 4, "background"]


def test_the_interval_of_a_share_is_wilsons(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = module("judge", monkeypatch)
    # the example of Agresti and Coull, The American Statistician 52, 1998: 0 of 10
    assert judge.wilson(0, 10) == "0.000 (0.000 to 0.278) of 10"
    assert judge.wilson(90, 100) == "0.900 (0.826 to 0.945) of 100"
    assert judge.wilson(0, 0) == "none"


def test_a_word_is_found_once_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = module("judge", monkeypatch)
    spoken = [(1.0, 1.4, "one"), (3.0, 3.4, "two"), (5.0, 5.4, "six")]
    times = [(1.6, "one"), (1.8, "one"), (3.5, "six"), (6.0, "six")]
    events = [Keyword(label, 0.9, at_s, at_s) for at_s, label in times]
    assert judge.delays(events, spoken) == [pytest.approx(0.2)]


def test_the_search_spots_what_a_stream_spots(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, sounds = (module(name, monkeypatch) for name in ("judge", "surroundings"))
    spotting = module("spotting", monkeypatch)
    model = sk.load("digits")
    rule = Spotting(window_s=0.5, threshold=0.7, hold_ms=120)
    clips = read_manifest(CLIPS)
    x = np.concatenate([np.pad(sounds.sound(clip), 4000) for clip in clips])
    found = spotting.events(model, spotting.probabilities(model, x, rule.window_s), rule)
    live = judge.live(model.with_(spotting=rule), x)
    assert [event.label for event in found] == [event.label for event in live]
    assert found


def test_few_false_words_come_before_many_words(monkeypatch: pytest.MonkeyPatch) -> None:
    module("judge", monkeypatch)
    spotting = module("spotting", monkeypatch)
    results = [(0.9, 9.0), (0.8, 4.0), (0.7, 2.0), (0.75, 3.0), (0.75, 1.0)]
    ranked = spotting.ranked([(*result, Spotting()) for result in results])
    assert [result[:2] for result in ranked] == [results[i] for i in (4, 3, 2, 1, 0)]
    # none has as few as MOST_FALSE: the limit is 44
    many = [(0.6, 40.0), (0.8, 45.0), (0.7, 43.0)]
    ranked = spotting.ranked([(*result, Spotting()) for result in many])
    assert [result[:2] for result in ranked] == [many[i] for i in (2, 0, 1)]


def test_frames_that_the_search_skips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spotting, model = module("spotting", monkeypatch), sk.load("digits")
    chance = np.random.default_rng(0)
    for pause_ms, hold_ms in ((0, 20), (50, 30), (200, 10)):
        rule = Spotting(threshold=0.5, hold_ms=hold_ms, pause_ms=pause_ms)
        # labels that last for a few frames, with silence of 0 to 0.6 s between them
        labels = chance.integers(0, len(model.labels), 300).repeat(chance.integers(1, 60, 300))
        p = np.full((len(labels), len(model.labels)), 0.01, np.float32)
        p[range(len(labels)), labels] = chance.choice([0.3, 0.6, 0.9], len(labels))
        state, expected = State(), []
        for frame, label in enumerate(labels):
            reported = -1 if model.labels[label] in rule.silent else int(label)
            score = float(p[frame, label])
            state, detected = advance(rule, model.frame_s, state, reported, score)
            if detected:
                expected.append((model.labels[label], (frame + 1) * model.frame_s))
        found = [(event.label, event.at_s) for event in spotting.events(model, p, rule)]
        assert found == expected
        assert found


@pytest.mark.parametrize("name", ["judge", "spotting", "voices"])
def test_a_script_without_arguments_shows_its_use(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module("judge", monkeypatch)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    with pytest.raises(SystemExit, match=rf"python recipes/words/{name}\.py .*\n[\s\S]*give "):
        runpy.run_path(str(RECIPE / f"{name}.py"), run_name="__main__")


def test_an_unknown_condition_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = module("judge", monkeypatch)
    with pytest.raises(SystemExit, match="no condition rain; known: as it is, cut close"):
        judge.main("digits", Path("nothing"), "as it is", "rain")


def test_a_folder_without_words_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    judge = module("judge", monkeypatch)
    spotting = module("spotting", monkeypatch)
    with pytest.raises(SystemExit, match="has no words of the part test"):
        judge.main("digits", tmp_path)
    with pytest.raises(SystemExit, match="has no words of the part dev"):
        spotting.search(sk.load("digits"), tmp_path)


def test_a_word_is_late_half_a_second_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = module("judge", monkeypatch)
    spoken = [(1.0, 1.4, "one")]
    for decided_s, found in ((1.0, 0), (1.2, 1), (1.89, 1), (1.91, 0)):
        events = [Keyword("one", 0.9, decided_s, decided_s)]
        assert len(judge.delays(events, spoken)) == found


def test_a_rejected_sound_has_a_label_that_is_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = module("judge", monkeypatch)
    labels = ["one", "unknown", "background", "nine"]
    monkeypatch.setattr(judge, "called", lambda model, sounds: labels[: len(sounds)])
    assert judge.rejected(sk.load("digits"), [np.zeros(1)] * 3).startswith("0.667 ")
    assert judge.rejected(sk.load("digits"), [np.zeros(1)] * 4).startswith("0.500 ")


@pytest.fixture
def enrolment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("speechkit_heads")
    return module("enrolment", monkeypatch)


def embedded(label: str, speaker: str, *x: float) -> tuple[Utterance, torch.Tensor, torch.Tensor]:
    clip = Utterance(audio=Path("x.wav"), duration_s=1, label=label, speaker=speaker)
    return clip, torch.tensor(x), torch.zeros(0, len(x))


def test_the_clips_of_a_draw_are_of_different_speakers(enrolment: ModuleType) -> None:
    clips = [embedded(label, f"s{n % 8}", n) for label in ("up", "down", "no") for n in range(24)]
    found = enrolment.drawn(clips, ["up", "down"], seed=0)
    assert [u.label for u, *_ in found] == ["up"] * 5 + ["down"] * 5
    assert len({u.speaker for u, *_ in found[:5]}) == 5
    assert found != enrolment.drawn(clips, ["up", "down"], seed=1)


def test_the_nearest_mean_is_by_distance_or_by_angle(enrolment: ModuleType) -> None:
    clips = [embedded("up", "a", 1.0, 0.0), embedded("down", "a", 9.0, 9.0)]
    # near the mean of up, but in the direction of down
    found = enrolment.nearest(clips, [embedded("up", "b", 1.0, 1.0)], ["up", "down"])
    assert found == {"nearest mean": 1.0, "cosine": 0.0}
