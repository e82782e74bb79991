"""Every recipe prepares its corpus from a folder and trains its tiny run."""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

import speechkit as sk
from speechkit.data import read_manifest

CLIPS = Path(sk.__file__).parent / "bundled" / "clips"
RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = sorted(path.parent.name for path in RECIPES.glob("*/run.py"))


def load(path: Path) -> ModuleType:
    # a script finds the modules beside it
    sys.path.insert(0, str(path.parent))
    try:
        return execute(path)
    finally:
        sys.path.remove(str(path.parent))


def execute(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"recipe_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def tone(path: Path, hz: float, rate: int, duration_s: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(rate * duration_s)) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * t), rate)


def fsdd(folder: Path) -> None:
    for speaker in ("ann", "bob"):
        for digit in range(10):
            for index in (0, 7):
                tone(folder / f"{digit}_{speaker}_{index}.wav", 200 + 50 * digit, 8000)


def an4(folder: Path) -> None:
    """The official archive's layout."""
    for part, speakers in (("train", [f"s{i}" for i in range(12)]), ("test", ["t0"])):
        lines = []
        for speaker in speakers:
            path = folder / "wav" / f"an4_{part}" / speaker / f"an1-{speaker}-b.sph"
            path.parent.mkdir(parents=True, exist_ok=True)
            t = np.arange(16000) / 16000
            soundfile.write(path, 0.3 * np.sin(2 * np.pi * 300 * t), 16000, format="NIST")
            lines.append(f"<s> YES GO </s> (an1-{speaker}-b)")
        (folder / "etc").mkdir(exist_ok=True)
        (folder / "etc" / f"an4_{part}.transcription").write_text("\n".join(lines) + "\n")


def read_aloud(folder: Path, *subsets: str) -> None:
    """LibriSpeech's official layout, two speakers in each subset."""
    for number, subset in enumerate(subsets):
        for speaker in (10 * number, 10 * number + 1):
            chapter = folder / "LibriSpeech" / subset / f"{speaker}" / "7"
            names = [f"{speaker}-7-{index:04}" for index in range(2)]
            for name in names:
                tone(chapter / f"{name}.flac", 300, 16000)
            lines = [f"{name} IT'S SO\n" for name in names]
            (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))


def librispeech(folder: Path) -> None:
    read_aloud(
        folder,
        *("train-clean-100", "train-clean-360", "train-other-500"),
        *("dev-clean", "dev-other", "test-clean", "test-other"),
    )


def mini_librispeech(folder: Path) -> None:
    read_aloud(folder, "train-clean-5", "dev-clean-2")


def english(folder: Path) -> None:
    """Of each corpus two sounds, with the manifests and the prompts that say what they are."""
    for name, speaker in (("train", "7"), ("dev", "118")):
        tone(folder / "mini_librispeech" / f"{name}.wav", 300, 16000)
        row = {"audio_filepath": f"{name}.wav", "duration": 0.5, "text": "so", "speaker": speaker}
        (folder / "mini_librispeech" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("hello", "digits/1", "beep", "wakeword/smart_mirror/0", "fsdd/3_ann_0"):
        tone(folder / ("" if "_" in name else "asterisk_en") / f"{name}.wav", 300, 16000)
    (folder / "asterisk_en" / "core-sounds-en.txt").write_text(
        "; Prompts\n\nhello: Hello, there!\ndigits/1: one\nbeep: [this is a beep]\n"
    )


def recall(folder: Path) -> None:
    """Both speakers who are kept out of training, and one who is not."""
    for speaker in ("ann", "lucas", "theo"):
        for digit in range(10):
            tone(folder / f"{digit}_{speaker}_0.wav", 200 + 50 * digit, 8000)


def speech_commands(folder: Path) -> None:
    """Every word of version 2 by a speaker of each part, and a background recording."""
    run = load(RECIPES / "speech_commands" / "run.py")
    for word in run.V2_35.split():
        for speaker in ("aa", "bb", "cc"):
            tone(folder / word / f"{speaker}_nohash_0.wav", 300, 16000, duration_s=0.3)
    for name, speaker in (("validation_list.txt", "bb"), ("testing_list.txt", "cc")):
        lines = [f"{word}/{speaker}_nohash_0.wav\n" for word in run.V2_35.split()]
        (folder / name).write_text("".join(lines))
    tone(folder / "_background_noise_" / "hum.wav", 50, 16000, duration_s=12)


def keywords(folder: Path) -> None:
    """Two words by three speakers, other words, a recording of speech, and a long noise."""
    for speaker in ("ann", "bob", "eve"):
        for word, hz in (("computer", 300), ("lamp", 500)):
            tone(folder / word / f"{speaker}_1.wav", hz, 16000)
        (folder / "_unknown_").mkdir(exist_ok=True)
        shutil.copy(CLIPS / "7_lucas_2.flac", folder / "_unknown_" / f"{speaker}_2.flac")
    shutil.copy(CLIPS / "an4_ffmm.opus", folder / "_unknown_" / "ffmm_1.opus")
    tone(folder / "_background_" / "hum.wav", 50, 16000, duration_s=12)


def words(folder: Path) -> None:
    """A word of each kind by a speaker of each part, a digit of FSDD, other speech and noise."""
    corpora = load(RECIPES / "words" / "corpora.py")
    clips = folder / "words" / "speech_commands"
    rows = []
    for word in (*corpora.DIGITS, *corpora.COMMANDS, *corpora.OTHERS):
        for speaker in ("ann", "zoe", "tom"):
            tone(clips / word / f"{speaker}_0.wav", 300, 16000)
            row = {"audio_filepath": f"{word}/{speaker}_0.wav", "duration": 0.5}
            rows.append(json.dumps({**row, "label": word, "speaker": speaker}))
    (clips / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    for index in (0, 7):
        tone(folder / "fsdd" / f"3_theo_{index}.wav", 300, 8000)
    for name in ("noise/esc10/1-a", "noise/esc10/4-a", "wakeword/alexa/0", "rir/rir1", "rir/rir4"):
        tone(folder / f"{name}.wav", 900, 16000)


def test_every_recipe_has_corpora() -> None:
    # vad needs a recogniser, adapt two folders: tests/recipes
    assert sorted([*CORPORA, "adapt", "vad"]) == NAMES


CORPORA = {
    "an4": an4,
    "english": english,
    "fsdd": fsdd,
    "keywords": keywords,
    "librispeech": librispeech,
    "mini_librispeech": mini_librispeech,
    "recall": recall,
    "speech_commands": speech_commands,
    "words": words,
}


@pytest.mark.parametrize("name", CORPORA)
def test_prepares_and_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    CORPORA[name](tmp_path / "source")
    written = load(RECIPES / name / "prepare.py").prepare(
        tmp_path / "source", tmp_path / "data" / name
    )
    assert all(read_manifest(path) for path in written)
    recipe = load(RECIPES / name / "run.py")
    run = recipe.tiny()
    assert run.data.train in [path.relative_to(tmp_path) for path in written]
    metrics = sk.fit(replace(run, steps=1, eval_every=1), tmp_path / "out", device="cpu")
    assert metrics["n"] == len(read_manifest(run.data.dev))
    assert sk.load(tmp_path / "out" / "best").config == run.model


@pytest.mark.parametrize("name", CORPORA)
def test_no_speaker_is_in_training_and_dev(name: str, tmp_path: Path) -> None:
    CORPORA[name](tmp_path / "source")
    written = load(RECIPES / name / "prepare.py").prepare(tmp_path / "source", tmp_path / "out")
    for train in (path for path in written if path.name.startswith("train")):
        if train.parent.name == "all":  # the official split of clips, not of speakers
            continue
        judged = [p for p in written if p.parent == train.parent and not p.name.startswith("train")]
        assert judged
        # a scene names several speakers, or none where there is no speech
        speakers = [
            {name for u in read_manifest(p) if u.speaker for name in u.speaker.split("+")}
            for p in (train, *judged)
        ]
        assert not any(speakers[0] & others for others in speakers[1:])


@pytest.mark.parametrize("name", NAMES)
def test_is_short_and_documented(name: str) -> None:
    files = {path.name: path.read_text() for path in (RECIPES / name).iterdir() if path.is_file()}
    assert {"prepare.py", "run.py", "README.md", "RESULTS.md"} <= set(files)
    assert len(files["prepare.py"].splitlines()) < 150
    assert len(files["run.py"].splitlines()) < 300
    assert f"recipes/{name}/run.py" in files["RESULTS.md"]


@pytest.mark.parametrize("name", NAMES)
def test_a_corpus_that_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    before = {"librispeech": ["100"], "speech_commands": ["2"]}.get(name, [])
    after = {"vad": ["runs/quartznet"]}.get(name, [])
    given = "out", *before, "absent", *after
    command = [sys.executable, str(RECIPES / name / "prepare.py"), *given]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_corpus_that_cannot_be_downloaded_is_one_line(tmp_path: Path) -> None:
    code = (
        "import sys, urllib.request, urllib.error, runpy\n"
        "def urlopen(url): raise urllib.error.URLError('no network')\n"
        "urllib.request.urlopen = urlopen\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, str(RECIPES / "an4" / "prepare.py"), "out"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert "no network" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_wrong_arguments_show_how_a_script_is_called(tmp_path: Path) -> None:
    command = [sys.executable, str(RECIPES / "an4" / "prepare.py")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert "python recipes/an4/prepare.py data/an4 [FOLDER]" in ended.stderr
    assert "Traceback" not in ended.stderr
