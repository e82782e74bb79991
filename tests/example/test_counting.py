"""The plugin of counting.py, used from the command line as a person would."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import speechkit as sk
from speechkit.cli.main import run
from speechkit.data import Utterance, write_manifest
from speechkit.plugins import Registry, using

PLUGIN = Path(__file__).with_name("counting.py")
RECIPE = """
from pathlib import Path

import speechkit as sk
from speechkit.train import Data


def base():
    return sk.Run(
        model=sk.MatchboxNet(
            labels=("words",),
            size="1x1x16",
            frontend="log_mel:n_mels=16,normalize=running",
            mixer="fading",
            head="count",
        ),
        data=Data(train=Path("words.jsonl"), dev=Path("words.jsonl"), batch_size=2),
        method=("gradual_pruning:share=0.75,until=3",),
        ema=0.9,
        steps=4,
        save_every=2,
    )
"""


@pytest.fixture(autouse=True)
def a_fresh_process() -> Iterator[None]:
    """Each test loads plugins as a process does that has just started."""
    with using(Registry()):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest, a recipe and the run `runs/base` that it describes."""
    folder = tmp_path_factory.mktemp("counting")
    rows = []
    for words in range(1, 7):
        # as many bursts as there are words
        sound = np.zeros(16000)
        for word in range(words):
            at = np.arange(1600) / 16000
            sound[2500 * word : 2500 * word + 1600] = 0.3 * np.sin(2 * np.pi * 440 * at)
        path = folder / f"{words}.wav"
        soundfile.write(path, sound, 16000)
        rows.append(Utterance(audio=path, duration_s=1.0, text=" ".join(["beep"] * words)))
    write_manifest(folder / "words.jsonl", rows)
    (folder / "recipe.py").write_text(RECIPE)
    shutil.copy(PLUGIN, folder)
    with pytest.MonkeyPatch.context() as patch, using(Registry()):
        patch.chdir(folder)
        assert run(["train", "recipe.py", "--plugin", "counting.py", "--device", "cpu"]) == 0
    return folder


@pytest.fixture
def type_(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """`type_("speechkit ...")` runs a command in the folder and returns what it printed."""
    monkeypatch.chdir(trained)

    def call(line: str) -> str:
        capfd.readouterr()
        code = run(line.split()[1:])
        printed = capfd.readouterr()
        assert code == 0, printed.err
        return printed.out

    return call


def zeros(path: Path) -> dict[str, tuple[int, int]]:
    """The zeros among the weights of each matrix of a model's encoder, and their number."""
    weights = load_file(path / "model.safetensors")
    matrices = {k: w for k, w in weights.items() if k.startswith("encoder.") and w.ndim > 1}
    assert matrices
    return {k: (int((w == 0).sum()), w.numel()) for k, w in matrices.items()}


def test_the_method_leaves_exactly_the_share_of_zeros(trained: Path) -> None:
    for model in ("last", "best"):
        for name, (pruned, weights) in zeros(trained / "runs/base" / model).items():
            assert pruned == round(0.75 * weights), name


def test_two_processes_prune_the_same(trained: Path) -> None:
    line = "train recipe.py --plugin counting.py --device cpu --out two --set devices=2"
    command = [str(Path(sys.executable).with_name("speechkit")), *line.split()]
    done = subprocess.run(command, cwd=trained, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert zeros(trained / "two/last") == zeros(trained / "runs/base/last")


def test_an_interrupted_run_goes_on_bit_by_bit(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)

    class Interrupting:
        @sk.hookimpl
        def speechkit_run_step(self, step: int) -> None:
            if step == 3:
                raise KeyboardInterrupt

    registry = Registry()
    registry.manager.register(Interrupting())
    command = "train recipe.py --plugin counting.py --device cpu --out parts"
    with using(registry):
        assert run(command.split()) != 0
    assert run([*command.split(), "--resume"]) == 0
    for file in ("last/model.safetensors", "last/training/methods.safetensors"):
        assert (trained / "parts" / file).read_bytes() == (
            trained / "runs/base" / file
        ).read_bytes()


def test_its_verb_is_a_command(type_: Callable[[str], str]) -> None:
    printed = json.loads(
        type_("speechkit count 3.wav --model runs/base/best --plugin counting.py --json")
    )
    assert printed["count"] >= 0


def test_a_model_of_it_is_evaluated_transformed_and_probed(
    type_: Callable[[str], str], trained: Path
) -> None:
    figures = json.loads(
        type_(
            "speechkit evaluate runs/base/best --manifest words.jsonl --plugin counting.py --json"
        )
    )
    assert figures["words_off"] >= 0
    type_("speechkit transform runs/base/best small --with coarse:bits=3 --plugin counting.py")
    weights = load_file(trained / "small/model.safetensors")
    for name, weight in weights.items():
        if name.startswith("encoder.") and weight.ndim > 1:
            assert len(weight.unique()) <= 7, name
    type_(
        "speechkit probe small --manifest words.jsonl --with quiet_channels --out found "
        "--plugin counting.py"
    )
    assert list((trained / "found").iterdir())


def test_it_streams_as_it_reads_the_whole(trained: Path) -> None:
    registry = Registry()
    registry.load_file(trained / PLUGIN.name)
    with using(registry):
        model = sk.load(trained / "runs/base/best")
        x = torch.from_numpy(soundfile.read(trained / "4.wav", dtype="float32")[0])
        whole = model(x[None]).scores
        rate = model.head.running()
        chunk = rate(model.encoder(model.stem(model.features(x[None], torch.tensor([16000])))))
    torch.testing.assert_close(chunk.x[:, :, -1], whole, rtol=0, atol=1e-4)


def test_the_kit_finds_no_fault_in_it(type_: Callable[[str], str]) -> None:
    printed = type_("speechkit plugins check counting.py")
    assert " 0 failed" in printed


def test_without_the_plugin_a_model_names_it(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert run(["info", "runs/base/best"]) == 1
    assert "counting" in capfd.readouterr().err
