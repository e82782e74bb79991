"""The label sets of the speech_commands recipe and their splits."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

import speechkit as sk
from speechkit.data import Utterance, read_manifest
from speechkit.errors import ManifestError

RECIPE = Path(__file__).parents[2] / "recipes" / "speech_commands"


@pytest.fixture(params=["prepare", "run"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    sys.modules.pop(request.param, None)
    return importlib.import_module(request.param)


@pytest.fixture
def background(tmp_path: Path) -> Path:
    for name, seconds in (("hum", 12.0), ("rain", 61.3)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(int(16000 * seconds)), 16000)
    return tmp_path


def clips(labels: list[str], count: int) -> list[Utterance]:
    return [
        Utterance(audio=Path(f"/{label}/{n}.wav"), duration_s=1.0, label=label)
        for label in labels
        for n in range(count)
    ]


@pytest.mark.parametrize("module", ["prepare"], indirect=True)
def test_silence_of_no_two_parts_overlaps(module: ModuleType, background: Path) -> None:
    spans: dict[tuple[Path, str], tuple[float, float]] = {}
    for part in module.SHARES:
        found = list(module.silence(background, part))
        assert {u.audio.stem for u in found} == {"hum", "rain"}
        for path in {u.audio for u in found}:
            starts = [u.offset_s for u in found if u.audio == path]
            spans[path, part] = (min(starts), max(starts) + 1)
            assert np.diff(starts) == pytest.approx(0.0625)
    for name, seconds in (("hum", 12.0), ("rain", 61.3)):
        path = (background / f"{name}.wav").resolve()
        edges = [edge for part in ("train", "dev", "test") for edge in spans[path, part]]
        assert edges == sorted(edges)
        assert edges[0] == 0
        assert seconds - 0.0625 <= edges[-1] <= seconds + 1e-9


@pytest.mark.parametrize("module", ["prepare"], indirect=True)
def test_unknown_and_silence_are_a_tenth_of_the_ten_words(
    module: ModuleType, background: Path
) -> None:
    words = {
        part: clips([*module.TEN, "cat", "dog"], count)
        for part, count in (("train", 21), ("dev", 7), ("test", 3))
    }
    sets = module.ten_and_two(words, background)
    for part, extra in (("train", 21), ("dev", 7), ("test", 3)):
        labels = [u.label for u in sets[part]]
        assert labels.count("unknown") == labels.count("silence") == extra
        assert labels.count("yes") == extra
        assert set(labels) == {*module.TEN, "unknown", "silence"}
        unknown = {u.audio.parent.name for u in sets[part] if u.label == "unknown"}
        assert unknown <= {"cat", "dog"}
    assert module.ten_and_two(words, background) == sets
    few = {"train": clips([*module.TEN], 5)}
    with pytest.raises(ManifestError, match="train has 0 clips of unknown, needs 5"):
        module.ten_and_two(few, background)


@pytest.mark.parametrize("module", ["prepare"], indirect=True)
def test_a_folder_without_the_lists_or_clips_is_refused(module: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"holds no validation_list\.txt"):
        module.prepare(tmp_path, tmp_path / "out")
    with pytest.raises(ManifestError, match="version=3"):
        module.prepare(tmp_path, tmp_path / "out", 3)
    for name in module.LISTS.values():
        (tmp_path / name).write_text("")
    with pytest.raises(ManifestError, match=r"no clips for .*train\.jsonl"):
        module.prepare(tmp_path, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["prepare"], indirect=True)
def test_a_clip_that_no_list_names_is_for_training(module: ModuleType, tmp_path: Path) -> None:
    named = {"dev": "validation_list.txt", "test": "testing_list.txt"}
    for name in ("bed/aa", "bed/bb", "cat/aa", "cat/cc", "cat/dd", "_background_noise_/hum"):
        path = tmp_path / f"{name}_nohash_0.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.zeros(1600), 16000)
    (tmp_path / named["dev"]).write_text("bed/bb_nohash_0.wav\n")
    (tmp_path / named["test"]).write_text("cat/cc_nohash_0.wav\n")
    written = module.prepare(tmp_path, tmp_path / "out", 1)
    found = {p.stem: [(u.label, u.speaker) for u in read_manifest(p)] for p in written}
    assert {p.parent.name for p in written} == {"v1_30"}
    assert found == {
        "train": [("bed", "aa"), ("cat", "aa"), ("cat", "dd")],
        "dev": [("bed", "bb")],
        "test": [("cat", "cc")],
    }


@pytest.mark.parametrize("module", ["run"], indirect=True)
@pytest.mark.parametrize(
    ("name", "parameters"), [("v1_30", 77_214), ("base", 77_859), ("v2_12", 74_892)]
)
def test_the_nets_are_the_papers(module: ModuleType, name: str, parameters: int) -> None:
    run = getattr(module, name)()
    assert sum(p.numel() for p in sk.build(run.model).parameters()) == parameters
    assert run.data.batch_size * run.accumulate == module.BATCH
    assert run.steps == 200 * run.eval_every
