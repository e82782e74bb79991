"""Test conditions of the vad recipe: parts have no common maker, levels are as stated."""

import importlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from speechkit.data import read_manifest
from speechkit.errors import ManifestError

RECIPE = Path(__file__).parents[2] / "recipes" / "vad"
RATE = 16000
NAMES = (
    *("labels", "sounds", "channels", "scenes", "rooms", "nonspeech", "sources"),
    *("alignment", "material", "conditions"),
)


@pytest.fixture(scope="module")
def vad() -> Iterator[SimpleNamespace]:
    """The recipe's modules, whose names other recipes have too."""
    sys.path.insert(0, str(RECIPE))
    for name in NAMES:
        sys.modules.pop(name, None)
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        sys.path.remove(str(RECIPE))
        for name in NAMES:
            sys.modules.pop(name, None)


def tone(spans: list[tuple[float, float]], seconds: float, hz: float = 300) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    x = 0.1 * np.sin(2 * np.pi * hz * t)
    return x * sum(((a <= t) & (t < b)).astype(float) for a, b in spans)


@pytest.fixture
def material(vad: SimpleNamespace, tmp_path: Path) -> SimpleNamespace:
    """Two speakers of each kind, who speak tones, and one recording each of other sounds."""
    voices = {}
    for kind in vad.material.MOST:
        voices[kind] = {
            source: [
                vad.labels.Piece(
                    tone([(0.3, 1.1)], 1.4, hz), [(0.3, 1.1)], source, f"{source} {hz}"
                )
                for hz in (300, 500)
            ]
            for source in ("first", "second")
        }
    others = {}
    for kind in ("music", "weather", "room"):
        path = tmp_path / f"{kind}.wav"
        noise = np.random.default_rng(len(kind)).standard_normal(2 * RATE)
        soundfile.write(path, 0.1 * noise * np.exp(-np.arange(2 * RATE) / 800), RATE, "FLOAT")
        others[kind] = [
            vad.sources.Recording(path=path, kind=kind, source=kind, maker=kind, part="test")
        ]
    return vad.material.Material(voices=voices, others=others)


def corpora(folder: Path) -> Path:
    """The files of each corpus, without sound."""
    rows = defaultdict(list)
    for speaker in ("118", "26", "19", "40"):
        rows["mini_librispeech/train"].append(
            {"audio_filepath": f"{speaker}-1-0.flac", "text": "a"}
        )
        (folder / "librispeech_speakers251").mkdir(exist_ok=True)
        (folder / "librispeech_speakers251" / f"{speaker}-2-0.opus").touch()
    for number in range(60):
        name = f"s{number:02}"
        rows["an4/train/manifest"].append({"audio_filepath": f"an1-m{name}-b.opus", "text": "a"})
        rows["words/speech_commands/manifest"] += [
            {"audio_filepath": f"{word}_{name}.opus", "label": word, "speaker": name}
            for word in ("yes", "no")
        ]
        rows["field/manifest"].append(
            {
                "audio_filepath": f"{name}.opus",
                "kind": "speech-unlabelled",
                "age": 7,
                "child": True,
                "source": "speechocean762",
                "clips": [["a", 0, 1], ["b", 1, 2]],
            }
        )
    rows["field/manifest"] += [
        {"audio_filepath": f"{source}/{number}.opus", "kind": kind, "source": source}
        for source, kind in (
            *(("warmux", "music"), ("lomiri", "music"), ("zaz", "music")),
            *(("blanket", "noise"), ("pinball", "noise"), ("sonic_pi", "noise")),
        )
        for number in range(3)
    ]
    for name, lines in rows.items():
        manifest = folder / f"{name}.jsonl"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        for row in lines:
            (manifest.parent / row["audio_filepath"]).parent.mkdir(exist_ok=True)
            (manifest.parent / row["audio_filepath"]).touch()
            row["duration"] = 2.0
        manifest.write_text("".join(json.dumps(row) + "\n" for row in lines))
    for fold in range(1, 6):
        path = folder / "noise" / "esc10" / "001 - Dog" / f"{fold}-{fold}.opus"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize("real", [False, True])
def test_no_maker_and_no_file_is_in_two_parts(
    vad: SimpleNamespace, tmp_path: Path, real: bool
) -> None:
    folder = corpora(tmp_path)
    if real:
        if "SPEECHKIT_DATA" not in os.environ:
            pytest.skip("SPEECHKIT_DATA is not set")
        folder = Path(os.environ["SPEECHKIT_DATA"])
    makers, files, parts = defaultdict(set), defaultdict(set), set()
    for recording in vad.sources.recordings(folder):
        makers[recording.maker].add(recording.part)
        files[recording.path].add(recording.part)
        parts.add(recording.part)
    assert parts == {"train", "dev", "test"}
    assert all(len(found) == 1 for found in files.values())
    assert all(len(found) == 1 for found in makers.values())


def test_packages_give_music_and_other_sounds(vad: SimpleNamespace, tmp_path: Path) -> None:
    package = tmp_path / "packages" / "pingus-data"
    for name in (
        "sounds/a.wav",
        "music/b.ogg",
        "music/README",
        *(f"s/{n}.wav" for n in range(299)),
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    found = list(vad.sources.packages(tmp_path))
    assert {(r.source, r.part) for r in found} == {("pingus-data", "train")}
    assert [r.path.name for r in found if r.kind == "music"] == ["b.ogg"]
    assert len([r for r in found if r.kind == "noise"]) == 100


def test_a_line_is_no_longer_than_its_file(vad: SimpleNamespace, tmp_path: Path) -> None:
    for name, length_s in (("music", 45), ("bang", 0.5)):
        path = tmp_path / "packages" / "game" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(round(length_s * RATE)), RATE)
    (manifest,) = vad.sources.write(tmp_path, tmp_path)
    assert {u.audio.stem: u.duration_s for u in read_manifest(manifest)} == {
        "music": 40,
        "bang": 0.5,
    }


def test_missing_corpora_are_one_line(vad: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no transcribed sentences and no music .* part dev"):
        vad.material.gathered(tmp_path, "dev", None, np.random.default_rng(0))


def test_sources_with_a_part_of_their_own_are_not_trained_on(
    vad: SimpleNamespace, tmp_path: Path
) -> None:
    found = {(r.source, r.part) for r in vad.sources.recordings(corpora(tmp_path))}
    assert {("warmux", "test"), ("lomiri", "dev"), ("zaz", "train")} <= found
    assert {("blanket", "test"), ("pinball", "dev"), ("sonic_pi", "train")} <= found
    for source in ("warmux", "lomiri", "zaz", "blanket", "pinball", "sonic_pi"):
        assert len([part for name, part in found if name == source]) == 1


def test_the_manifests_of_the_parts_name_source_and_kind(
    vad: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vad.sources, "audio_duration_s", lambda _: 100.0)
    folder = corpora(tmp_path)
    written = vad.sources.write(folder, tmp_path / "out")
    assert {path.stem for path in written} == {"train", "dev", "test"}
    labels = {path.stem: {u.label for u in read_manifest(path)} for path in written}
    assert "zaz: music" in labels["train"]
    assert "lomiri: music" in labels["dev"]
    assert "warmux: music" in labels["test"]
    with pytest.raises(ManifestError, match="missing is not a folder"):
        vad.sources.write(tmp_path / "missing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="empty has no recordings"):
        vad.sources.write(tmp_path / "empty", tmp_path / "out")


def test_the_edge_of_a_word_is_where_its_level_falls(vad: SimpleNamespace) -> None:
    # a breath at 0.3 s is no word, and the alignment is late by 0.08 s at both ends
    x = tone([(0.3, 0.5), (1.0, 1.6)], 2.5)
    x += 1e-4 * np.random.default_rng(0).standard_normal(len(x))
    words = [(1.08, 1.4), (1.4, 1.68)]
    found = vad.alignment.word_segments(words, x)
    np.testing.assert_allclose(found, [(1.0, 1.6)], atol=0.03)
    assert len(vad.labels.speech_segments(x)) == 2


def test_words_count_where_the_level_says_nothing(vad: SimpleNamespace) -> None:
    x = np.random.default_rng(0).standard_normal(2 * RATE)
    words = [(0.5, 0.9), (0.95, 1.4)]
    np.testing.assert_allclose(
        vad.alignment.word_segments(words, x), [(0.5 - 0.15, 1.4 + 0.15)], atol=0.011
    )


def test_speech_of_a_scene_is_where_its_labels_are(
    vad: SimpleNamespace, material: SimpleNamespace
) -> None:
    scene = vad.conditions.talk(np.random.default_rng(0), material.voices["read"])
    level = vad.labels.levels_db(scene.audio)
    speech = vad.alignment.inside(scene.segments, len(level))
    edges = np.convolve(np.diff(speech, prepend=False), np.ones(7), "same") > 0
    assert level[speech & ~edges].min() > -32
    assert level[~speech & ~edges].max() < -55
    assert vad.sounds.rms_db(vad.labels.spoken(scene.audio, scene.segments)) == pytest.approx(
        vad.conditions.SPEECH_DB, abs=0.1
    )


@pytest.mark.parametrize(("name", "level_db"), [("minus_40_db", -40), ("minus_50_db", -50)])
def test_quiet_speech_has_the_level_of_its_name(
    vad: SimpleNamespace, material: SimpleNamespace, name: str, level_db: float
) -> None:
    scene = vad.conditions.talk(np.random.default_rng(0), material.voices["read"])
    x = vad.conditions.EFFECTS[name](np.random.default_rng(0), material, scene)
    assert vad.sounds.rms_db(vad.labels.spoken(x, scene.segments)) == pytest.approx(
        level_db, abs=0.1
    )


def test_other_sound_is_below_the_speech_by_the_ratio(vad: SimpleNamespace) -> None:
    x = np.zeros(RATE)
    y = vad.conditions.among(np.random.default_rng(0), x, tone([(0, 0.5)], 0.5), (10, 10))
    assert vad.sounds.rms_db(y) == pytest.approx(vad.conditions.SPEECH_DB - 10, abs=0.1)


def test_a_meeting_is_quiet_speech_over_a_low_floor(
    vad: SimpleNamespace, material: SimpleNamespace
) -> None:
    pytest.importorskip("pyroomacoustics")
    scene = vad.conditions.meeting(np.random.default_rng(4), material)
    level_db = vad.sounds.rms_db(vad.labels.spoken(scene.audio, scene.segments))
    # sounds may be as loud as the talkers
    assert -49 < level_db < -33
    assert -82 < np.percentile(vad.labels.levels_db(scene.audio), 2) < -58


def test_every_condition_keeps_the_length_and_is_the_same_again(
    vad: SimpleNamespace, material: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vad.conditions, "SCENE_S", 3.0)
    scene = vad.conditions.talk(np.random.default_rng(0), material.voices["read"])
    for name, effect in vad.conditions.EFFECTS.items():
        first, again, other = (
            effect(vad.conditions.generator(seed, name), material, scene) for seed in (0, 0, 1)
        )
        assert len(first) == len(scene.audio)
        np.testing.assert_array_equal(first, again)
        if name in {"music", "noise", "crowd", "hum", "level_steps"}:
            assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "name",
    ["breath, made", "cough, made", "laughter, made", "keys, made", "dishes, made", "tones", "hum"],
)
def test_a_made_sound_has_level_one_and_is_the_same_again(vad: SimpleNamespace, name: str) -> None:
    first, again, other = (
        vad.nonspeech.MADE[name](np.random.default_rng(seed), 4 * RATE) for seed in (0, 0, 1)
    )
    assert len(first) == 4 * RATE
    assert np.square(first).mean() == pytest.approx(1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sounds_that_are_not_speech_have_no_segments(
    vad: SimpleNamespace, material: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vad.conditions, "SOUND_S", 1.0)
    monkeypatch.setattr(vad.conditions, "MADE_COUNT", 1)
    rows = list(vad.conditions.without(material, "test", 0))
    assert {"music_alone", "weather_alone", "music_by_telephone", "sounds_by_telephone"} <= {
        names.split()[0] for names, _ in rows
    }
    assert not any(scene.segments for _, scene in rows)
    assert all(len(scene.audio) <= RATE and np.abs(scene.audio).max() <= 1 for _, scene in rows)


def test_a_line_names_the_part_and_the_condition(vad: SimpleNamespace, tmp_path: Path) -> None:
    scene = vad.conditions.Scene(tone([(0.2, 0.6)], 1.0), [(0.2, 0.6), (0.9, 1.00003)])
    row = vad.conditions.record(scene, tmp_path / "test" / "gsm_000.flac", "test=gsm")
    assert row.label == "test=gsm"
    assert row.segments == ((0.2, 0.6), (0.9, 1.0))
    assert soundfile.info(row.audio).frames == RATE
