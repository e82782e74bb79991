"""The adapt recipe: which clips it trains on, when it keeps the new weights, and recording."""

import importlib
import runpy
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import speechkit as sk
from speechkit.data import Utterance, read_manifest, write_manifest
from speechkit.errors import AudioError, ConfigError, ManifestError

RECIPE = Path(__file__).parents[2] / "recipes" / "adapt"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, ModuleType]]:
    """Its modules, in an empty folder."""
    monkeypatch.syspath_prepend(str(RECIPE))
    monkeypatch.chdir(tmp_path)
    names = "prepare", "run", "record"
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def tone(path: Path, hz: float) -> Utterance:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * np.arange(4000) / 8000), 8000)
    return Utterance(audio=path.resolve(), duration_s=0.5, label=path.parent.name, speaker="ann")


def corpora(clips: int = 5, others: int = 3) -> tuple[Path, Path]:
    """Clips of one person for two words, and manifests of others for three labels."""
    for word, hz in (("one", 300), ("two", 500)):
        for number in range(clips):
            tone(Path("mine", word, f"{number}.wav"), hz + number)
    labels = "one", "two", "unknown"
    rows = [tone(Path("old", word, f"{n}.wav"), 700 + n) for word in labels for n in range(others)]
    for part in ("train", "dev"):
        write_manifest(Path("old", f"{part}.jsonl"), rows)
    return Path("mine"), Path("old")


@pytest.mark.parametrize(("clips", "held_out"), [(2, 1), (3, 1), (5, 2), (6, 2), (7, 3)])
def test_the_last_third_of_each_label_is_held_out(
    recipe: dict[str, ModuleType], clips: int, held_out: int
) -> None:
    mine, old = corpora(clips)
    recipe["prepare"].prepare(mine, Path("data"), old)
    names = [f"{u.label}/{u.audio.stem}" for u in read_manifest(Path("data/mine.jsonl"))]
    last = range(clips - held_out, clips)
    assert names == [f"{word}/{number}" for word in ("one", "two") for number in last]
    trained = {u.audio for u in read_manifest(Path("data/train.jsonl"))}
    assert not trained & {u.audio for u in read_manifest(Path("data/mine.jsonl"))}


def test_half_of_training_is_of_this_person_and_the_rest_of_others(
    recipe: dict[str, ModuleType],
) -> None:
    mine, old = corpora(clips=3, others=50)
    recipe["prepare"].prepare(mine, Path("data"), old)
    rows = read_manifest(Path("data/train.jsonl"))
    own = Counter(u.audio.stem for u in rows if "mine" in u.audio.parts)
    assert own == {"0": 60, "1": 60}
    others = Counter(u.label for u in rows if "old" in u.audio.parts)
    assert others == {"one": 40, "two": 40, "unknown": 40}
    assert read_manifest(Path("data/old.jsonl")) == read_manifest(old / "dev.jsonl")


def test_without_other_people_the_recipe_of_fsdd_is_called_once(
    recipe: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, old = corpora()
    called: list[Path | None] = []

    def fsdd(source: Path | None, out: Path) -> None:
        called.append(source)
        out.mkdir(parents=True)
        (out / "all").symlink_to(old.resolve())

    monkeypatch.setattr(recipe["prepare"].runpy, "run_path", lambda _: {"prepare": fsdd})
    for _ in range(2):
        recipe["prepare"].prepare(mine, Path("data/adapt"))
    assert called == [None]
    assert len(read_manifest(Path("data/adapt/old.jsonl"))) == 9


def test_a_folder_without_clips_to_hold_out_is_refused(recipe: dict[str, ModuleType]) -> None:
    mine, old = corpora(clips=1)
    with pytest.raises(ManifestError, match=r"mine has no label with two clips or more; add clips"):
        recipe["prepare"].prepare(mine, Path("data"), old)
    with pytest.raises(ManifestError, match=r"absent is no folder"):
        recipe["prepare"].prepare(Path("absent"), Path("data"), old)


def test_too_many_folders_show_the_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", "data", "mine", "old", "older"])
    with pytest.raises(SystemExit, match=r"python recipes/adapt/prepare\.py data/adapt MINE"):
        runpy.run_path(str(RECIPE / "prepare.py"), run_name="__main__")


def test_its_tiny_run_trains(recipe: dict[str, ModuleType]) -> None:
    clips, others = corpora()
    recipe["prepare"].prepare(clips, Path("data/adapt"), others)
    run = recipe["run"].tiny()
    assert sk.fit(run, "out", device="cpu")["n"] == 4
    assert sk.load("out/best").config == run.model


def test_a_wrong_argument_is_one_line_that_says_what_to_type(
    recipe: dict[str, ModuleType],
) -> None:
    adapt = recipe["run"].adapt
    with pytest.raises(ConfigError, match=r"--steps=x: give a whole number"):
        adapt("out", steps="x")
    with pytest.raises(ConfigError, match=r"--seed=1\.5: give a whole number"):
        adapt("out", seed="1.5")
    Path("out/final").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"out holds a run already; delete it, or give another"):
        adapt("out", steps="1")


@pytest.mark.parametrize(
    ("figures", "kept", "share"),
    [
        ([(0.9, 0.9)], "all of the change", 1.0),
        ([(0.5, 0.895)], "all of the change", 1.0),
        ([(0.9, 0.88), (0.7, 0.89)], "half of the change", 0.5),
        ([(0.4, 0.9), (0.4, 0.9), (0.6, 0.9)], "a quarter of the change", 0.25),
        ([(0.9, 0.88), (0.4, 0.9), (0.9, 0.88)], "the old weights", 0.0),
    ],
)
def test_as_much_of_the_change_is_kept_as_others_allow(
    recipe: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    figures: list[tuple[float, float]],
    kept: str,
    share: float,
) -> None:
    clips, others = corpora()
    recipe["prepare"].prepare(clips, Path("data/adapt"), others)
    # before, the person's clips have 0.5 and those of others 0.9
    found = iter([{"accuracy": x} for pair in [(0.5, 0.9), *figures] for x in pair])
    monkeypatch.setattr(sk, "evaluate", lambda *_: next(found))
    (final,) = recipe["run"].adapt("out", steps="1")
    assert not list(found)
    printed = capsys.readouterr().out
    assert f"accuracy on my clips: 0.500 before, {figures[-1][0]:.3f} after" in printed
    assert f"Kept: {kept}." in printed
    old, new, made = (sk.load(m).state_dict() for m in ("digits", "out/run/best", final))
    for name, x in made.items():
        if x.is_floating_point():
            torch.testing.assert_close(x, old[name].lerp(new[name], share), msg=name)


def test_clips_are_recorded_once(
    recipe: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Microphone:
        def __init__(self, rate: int) -> None:
            self.sample_rate = rate

        def __enter__(self) -> "Microphone":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Iterator[NDArray[np.float32]]:
            while True:
                yield np.full(1000, 0.1, np.float32)

    asked: list[str] = []
    monkeypatch.setattr("builtins.input", asked.append)
    monkeypatch.setattr(recipe["record"], "Microphone", Microphone)
    tone(Path("mine/no/2.wav"), 300)
    recipe["record"].record(Path("mine"), ("yes", "no"))
    assert len(asked) == 9
    assert asked[0] == "Press Enter, then say: yes  (1 of 5) "
    samples, rate = soundfile.read("mine/yes/5.wav")
    assert (len(samples), rate) == (24000, 16000)


def test_without_a_microphone_recording_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def absent(_: int) -> None:
        raise AudioError("no microphone; connect one")

    monkeypatch.setattr("speechkit.streaming.sources.Microphone", absent)
    monkeypatch.setattr("builtins.input", str)
    monkeypatch.setattr(sys, "argv", ["record.py", str(tmp_path / "mine"), "yes"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(RECIPE / "record.py"), run_name="__main__")
    assert capsys.readouterr().err == "error: no microphone; connect one\n"
    assert not (tmp_path / "mine").exists()
