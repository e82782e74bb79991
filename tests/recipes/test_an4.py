"""The an4 recipe's phones, its spliced utterances, and the way from the corpora to the model."""

import importlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import speechkit as sk
from speechkit.data import Utterance, audio_duration_s, read_manifest, write_manifest
from speechkit.errors import ConfigError, ManifestError

RECIPE = Path(__file__).parents[2] / "recipes" / "an4"
CLIPS = Path(sk.__file__).parent / "bundled" / "clips"
DICTIONARY = """\
A              AH
A(2)           EY
ENTER          EH N T ER
FIVE           F AY V
K              K EY
M              EH M
R              AA R
"""
KNOWN = {"seven": [["S", "EH1", "V", "AH0", "N"]], "read": [["R", "IY1", "D"], ["R", "EH1", "D"]]}
"""Stands in for CMUdict."""
STEPS = [
    *("prepare", "prepare_english", "lexicon", "flat", "phones", "splice", "base", "hard"),
    *("average", "again", "average_again", "grown", "more", "beside", "average_deep"),
    *("beside11", "beside12", "average_beside"),
    *("sources", "background", "quiet", "quiet_again", "average_quiet", "biased", "final"),
]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    monkeypatch.setitem(sys.modules, "cmudict", SimpleNamespace(dict=lambda: KNOWN))
    for name in ("run", "prepare", "lexicon", "splice", "background", "finish"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("run")


@pytest.fixture
def lexicon(recipe: ModuleType) -> ModuleType:
    return sys.modules["lexicon"]


def corpora(folder: Path) -> tuple[Path, Path]:
    """Four speakers of AN4, one of them for development, and two of other English."""
    an4, english = folder / "an4", folder / "english"
    rows = []
    for number, speaker in enumerate(("fash", "mbmg", "fejs", "ffmm")):
        name, text = [("an4_ffmm", "enter five"), ("an4_mmsh", "m a r k")][number % 2]
        path = an4 / f"an{number}-{speaker}-b.opus"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIPS / f"{name}.opus", path)
        rows.append(Utterance(audio=path, duration_s=audio_duration_s(path), text=text))
    write_manifest(an4 / "manifest.jsonl", rows)
    (an4 / "an4.dic").write_text(DICTIONARY)
    for part, clip, speaker in (("train", "5_george_0", "7"), ("dev", "7_lucas_2", "118")):
        path = english / "mini_librispeech" / f"{part}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIPS / f"{clip}.flac", path)
        text = "five" if part == "train" else "seven"
        row = Utterance(audio=path, duration_s=audio_duration_s(path), text=text, speaker=speaker)
        write_manifest(path.with_suffix(".jsonl"), [row])
    shutil.copy(CLIPS / "an4_ffmm.opus", english / "field.opus")
    row = {"audio_filepath": "../field.opus", "duration": 1.5, "kind": "music", "source": "zaz"}
    (english / "field").mkdir()
    (english / "field" / "manifest.jsonl").write_text(json.dumps(row))
    return english, an4


@pytest.mark.parametrize(
    ("name", "parameters"), [("base", 1_623_261), ("beside", 1_905_117), ("small", 134_801)]
)
def test_the_nets_are_those_of_the_results(recipe: ModuleType, name: str, parameters: int) -> None:
    model = sk.build(getattr(recipe, name)().model)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_words_have_the_phones_of_a_dictionary(lexicon: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "an4.dic").write_text(DICTIONARY)
    own = lexicon.read_dictionary(tmp_path)
    assert own["enter"] == ["EH", "N", "T", "ER"]
    assert own["a"] == ["EY"]
    spoken = lexicon.Lexicon(own)
    # its own, CMUdict's first, a suffix, two words in one, and by rules
    assert spoken.phones("k read") == ["K", "EY", "R", "IY", "D"]
    assert spoken.phones("sevens") == ["S", "EH", "V", "AH", "N", "Z"]
    assert spoken.phones("readseven") == ["R", "IY", "D", "S", "EH", "V", "AH", "N"]
    assert spoken.phones("tchaix") == ["T", "CH", "EY", "K", "S"]
    assert spoken.symbols("k k") == 2 * (lexicon.SYMBOLS["K"] + lexicon.SYMBOLS["EY"])
    assert len(set(lexicon.SYMBOLS.values())) == 39


def test_pieces_are_joined_without_a_click(recipe: ModuleType) -> None:
    splice = sys.modules["splice"]
    ones = np.ones(400, np.float32)
    joined = splice.crossfaded(ones, 3 * ones, 80)
    assert len(joined) == 720
    assert np.abs(np.diff(joined)).max() < 0.05
    quiet = np.concatenate([np.zeros(8000, np.float32), ones, np.zeros(8000, np.float32)])
    assert 400 <= len(splice.loud(quiet, 16000)) <= 400 + 2 * 320 + 2 * 80


def test_half_of_the_background_has_the_words_of_an_utterance(
    recipe: ModuleType, tmp_path: Path
) -> None:
    _, an4 = corpora(tmp_path)
    own = read_manifest(an4 / "manifest.jsonl")
    write_manifest(tmp_path / "train.jsonl", own)
    music = [replace(u, text=None, label="zaz: music") for u in own[:1]]
    voice = [replace(u, text=None, label="klettres: untranscribed") for u in own[1:2]]
    write_manifest(tmp_path / "sources.jsonl", [*music, *voice])
    module = sys.modules["background"]
    background, noise = module.background(tmp_path, tmp_path / "sources.jsonl", scenes=6)
    rows = read_manifest(background)
    assert len(rows) == 12
    assert [bool(u.text) for u in rows] == 6 * [False, True]
    assert {u.text for u in rows[1::2]} <= {u.text for u in own}
    for row in rows[1::2]:
        said = next(u for u in own if u.text == row.text)
        assert said.duration_s + 1 < row.duration_s < said.duration_s + 6.1
    assert {u.text for u in read_manifest(noise)} == {""}
    # letters of other languages are not called silence
    sounds = module.Sounds(read_manifest(tmp_path / "sources.jsonl"))
    assert set(sounds.groups) == {"music"}
    with pytest.raises(ManifestError, match="no music"):
        module.Sounds(voice)


def test_sounds_of_the_background_have_their_levels(recipe: ModuleType) -> None:
    module, chance = sys.modules["background"], np.random.default_rng(0)
    assert abs(module.rms(module.stationary(chance, 16000)) - 1) < 1e-3
    t = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * hz * t).astype(np.float32) for hz in (1000, 5000))
    assert np.abs(module.narrow(chance, low)).max() > 0.9
    assert module.rms(module.narrow(chance, high)) < 0.05
    assert all(np.abs(module.made(chance, 800)).max() <= 1 for _ in range(50))


def test_only_recordings_without_speech_of_the_part_are_judged(
    recipe: ModuleType, tmp_path: Path
) -> None:
    silence, path = importlib.import_module("silence"), tmp_path / "x.flac"
    soundfile.write(path, np.full(1600, 0.1), 16000)

    def row(label: str | None, *segments: tuple[float, float]) -> Utterance:
        return Utterance(audio=path, duration_s=0.1, label=label, segments=segments)

    found = row("test=music_alone test=music_alone:folk"), row("dev=rain_alone"), row(None), row("")
    write_manifest(tmp_path / "all.jsonl", [*found, row("test=plain", (0.0, 0.1))])
    names = [name for name, _ in silence.sounds(tmp_path / "all.jsonl", "test")]
    assert names == ["music_alone", "silence", "dither", *["white_noise"] * len(silence.MADE_DB)]
    with pytest.raises(ManifestError, match="no recordings without speech of the part 'tset'"):
        next(silence.sounds(tmp_path / "all.jsonl", "tset"))


class Trial:
    """The pipeline with narrow nets and few steps."""

    def __init__(self, recipe: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recipe, self.corpora = recipe, corpora(folder)
        self.calls: list[str] = []
        narrow = [replace(b, channels=b.channels // 32, repeat=1) for b in recipe.BLOCKS]
        monkeypatch.setattr(recipe, "BLOCKS", tuple(narrow))
        monkeypatch.setattr(recipe, "UTTERANCES", 8)
        monkeypatch.setattr(recipe, "SCENES", 8)
        monkeypatch.chdir(folder)

    def __call__(self, capsys: Any, **named: str) -> list[str]:
        """The steps that it did."""
        english, an4 = map(str, self.corpora)
        self.recipe.pipeline("runs/an4", english, an4, steps="2", **named)
        lines = capsys.readouterr().out.splitlines()
        return [line.partition(": ")[2] for line in lines if line.startswith("pipeline: ")]


@pytest.fixture
def trial(recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    return Trial(recipe, tmp_path, monkeypatch)


def test_the_pipeline_goes_from_the_corpora_to_the_model(
    trial: Trial, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    splice, stopped = trial.recipe.splice, KeyboardInterrupt()

    def interrupted(*_: Any) -> None:
        raise stopped

    monkeypatch.setattr(trial.recipe, "splice", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trial(capsys)
    capsys.readouterr()
    monkeypatch.setattr(trial.recipe, "splice", splice)
    assert trial(capsys) == STEPS[STEPS.index("splice") :]
    assert trial(capsys) == []

    model = sk.load("runs/an4/final")
    made = trial.recipe.quiet_again().model
    assert model.config == replace(made, endpointing=replace(made.endpointing, least_score=0.6))
    assert len(model.encoder) == len(trial.recipe.BLOCKS)
    weights = sk.checkpoint.read_tensors(Path("runs/an4/final/model.safetensors"))
    assert {x.dtype for x in weights.values() if x.is_floating_point()} == {torch.float16}
    before, after = (sk.load(f"runs/an4/{name}") for name in ("average_quiet", "biased"))
    moved = after.head.linear.bias - before.head.linear.bias
    torch.testing.assert_close(moved[-1], torch.tensor(-0.45))
    spliced = read_manifest("data/an4/spliced.jsonl")
    assert len(spliced) == 8
    assert all(u.text and u.phones for u in spliced)
    assert {u.speaker for u in spliced} <= {"fash", "mbmg", "fejs", "7"}

    # from a step on, once more
    assert trial(capsys, redo="biased") == ["biased", "final"]
    monkeypatch.setattr(trial.recipe, "UTTERANCES", 9)
    with pytest.raises(ConfigError, match=r"splice had count=8, now count=9; .* --redo=splice"):
        trial(capsys)
