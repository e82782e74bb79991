"""The keyword recipe: folders become labels, and missing folders are reported."""

import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

import speechkit as sk
from speechkit.data import read_manifest
from speechkit.errors import SpeechkitError

RECIPE = Path(__file__).parents[2] / "recipes" / "keywords"
SPEECH = Path(sk.__file__).parent / "bundled" / "clips" / "an4_ffmm.opus"


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    sys.modules.pop("prepare", None)
    return importlib.import_module("prepare")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name in ("lamp", "_unknown_", "_background_"):
        (folder / name).mkdir(parents=True)
    for speaker in ("ann", "bob"):
        soundfile.write(folder / "lamp" / f"{speaker}_1.wav", np.full(8000, 0.1), 16000)
        shutil.copy(SPEECH, folder / "_unknown_" / f"{speaker}_2.opus")
        # no speech in it: left out
        soundfile.write(folder / "_unknown_" / f"{speaker}_3.wav", np.zeros(48000), 16000)
    soundfile.write(folder / "_background_" / "hum.wav", np.full(20 * 16000, 0.01), 16000)
    return folder


def test_each_folder_gives_its_label(prepare: ModuleType, source: Path, tmp_path: Path) -> None:
    train, dev = map(read_manifest, prepare.prepare(source, tmp_path / "out"))
    for part in (train, dev):
        assert {u.label for u in part} == {"lamp", "unknown", "background"}
        assert {u.audio.suffix for u in part if u.label == "unknown"} == {".opus"}
        # two pieces of each for the one clip of the keyword
        assert sum(u.label == "background" for u in part) == 2
    noise = {u.offset_s for u in train if u.label == "background"}
    assert max(noise) < 18 <= min(u.offset_s for u in dev if u.label == "background")


@pytest.mark.parametrize(
    ("drop", "says"),
    [
        ("lamp", "no folder with clips of a keyword"),
        ("_unknown_", "has no folder _unknown_; see recipes/keywords/README.md"),
        ("_background_", "has no folder _background_; see recipes/keywords/README.md"),
        ("lamp/ann_1.wav", "train would have no clip of 'lamp'"),
    ],
)
def test_what_is_missing_is_reported_and_nothing_written(
    prepare: ModuleType, source: Path, tmp_path: Path, drop: str, says: str
) -> None:
    path = source / drop
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(SpeechkitError, match=says):
        prepare.prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
