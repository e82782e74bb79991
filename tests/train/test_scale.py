"""Several processes are as one, and a run that is killed over and over as one that never was."""

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from speechkit.checkpoint import load
from speechkit.config import to_dict, write_json
from speechkit.data import read_manifest, write_manifest
from speechkit.errors import TrainingError
from speechkit.plugins import Registry, registry, using
from speechkit.testing.runs import fit_in_two
from speechkit.train import Data, Run, fit
from speechkit.train.journal import Journal
from speechkit.train.resume import BEST, LAST

Corpus = Callable[..., Path]


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / LAST / "training" / "weights.safetensors")


def figures(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def run(nets: dict[str, Any], corpus: Corpus) -> Run:
    """Thirteen rows in batches of six: the last of an epoch has fewer rows than two processes."""
    return Run(
        model=replace(nets["clip"], norm="none"),
        data=Data(train=corpus(13, "train"), dev=corpus(3, "dev"), batch_size=6),
        steps=6,
        optimizer="novograd:lr=0.01,weight_decay=0.001",
        augment=("white_noise", "spec_augment"),
        ema=0.9,
        clip_norm=1.0,
        eval_every=3,
        save_every=3,
        log_every=1,
    )


def in_two(run: Run, **changes: Any) -> Run:
    data = replace(run.data, batch_size=run.data.batch_size // 2)
    return replace(run, data=data, devices=2, **changes)


def test_two_processes_are_as_one_with_twice_the_batch(
    run: Run, corpus: Corpus, tmp_path: Path
) -> None:
    # a row in each process even in the last batch, for the check of running variances below
    even = replace(run.data, train=corpus(14, "even"))
    batch = replace(run, model=replace(run.model, norm="batch"), data=even)
    twice = replace(run, accumulate=2)
    runs = {"plain": run, "accumulated": twice, "batch_norm": batch}
    many = [(in_two(one), f"{name}_two", False) for name, one in runs.items()]
    many.append((in_two(run, strategy="fsdp"), "plain_fsdp", False))
    done = fit_in_two(tmp_path, *many)
    assert done.returncode == 0, done.stderr
    for name, one in runs.items():
        fit(one, tmp_path / name, device="cpu")
    pairs = [(f"{name}_two", name) for name in runs]
    for two, one in [*pairs, ("plain_fsdp", "plain")]:
        for name, value in weights(tmp_path / one).items():
            other = weights(tmp_path / two)[name]
            torch.testing.assert_close(other, value, rtol=0, atol=1e-5, msg=f"{two}: {name}")
        average, other = (load(tmp_path / out / BEST).state_dict() for out in (one, two))
        for name, value in average.items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5)
        # as one process, which wrote nothing twice
        for mine, theirs in zip(figures(tmp_path / one), figures(tmp_path / two), strict=True):
            assert theirs == pytest.approx(mine, abs=1e-5)


def test_a_method_with_weights_is_shared_by_two_processes(
    run: Run, nets: dict[str, Any], tmp_path: Path
) -> None:
    rows = read_manifest(run.data.train)[:12]
    phones = {"hi": "HH AY", "lo": "L OW"}
    write_manifest(run.data.train, [replace(u, phones=phones[u.text or ""]) for u in rows])
    run = replace(run, model=replace(nets["ctc"], norm="none"), method=("phones:after=0",))
    done = fit_in_two(
        tmp_path, (in_two(run), "ddp", False), (in_two(run, strategy="fsdp"), "fsdp", False)
    )
    assert done.returncode == 0, done.stderr
    fit(run, tmp_path / "one", device="cpu")
    state = Path(LAST, "training", "methods.safetensors")
    one = load_file(tmp_path / "one" / state)
    for name in ("ddp", "fsdp"):
        other = load_file(tmp_path / name / state)
        assert weights(tmp_path / name).keys() == weights(tmp_path / "one").keys()
        # each process begins with the first one's linear layer, which is the single one's
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=0, atol=1e-5, msg=f"{name}: {key}")


GAIN = """
import torch
from torch import nn
import speechkit as sk
from speechkit.frontend import LogMel
from speechkit.nn import FrameWise, Serial

class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((16, 1), 0.1))

    def forward(self, x):
        return self.weight * x

def gain(sample_rate):
    return Serial(LogMel(sample_rate, n_mels=16, normalize="none"), FrameWise(Gain()))

@sk.hookimpl
def speechkit_frontends():
    return [sk.Component(name="gain", factory=gain, summary="A gain", formula="w x")]
"""


def test_a_front_end_that_learns_is_shared_by_two_processes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "acme.py").write_text(GAIN)
    run = replace(run, model=replace(run.model, frontend="acme/gain"))
    spread = in_two(run, strategy="fsdp")
    runs = (in_two(run), "ddp", False), (spread, "fsdp", False)
    done = fit_in_two(tmp_path, *runs, plugins=str(tmp_path / "acme.py"))
    assert done.returncode == 0, done.stderr
    with using(Registry()):
        registry().load_file(tmp_path / "acme.py")
        fit(run, tmp_path / "one", device="cpu")
    gain, one = "frontend.1.module.weight", weights(tmp_path / "one")
    assert (one[gain] != 0.1).all()
    for name in ("ddp", "fsdp"):
        for key, value in weights(tmp_path / name).items():
            torch.testing.assert_close(value, one[key], rtol=0, atol=1e-5, msg=f"{name}: {key}")


PRUNING = """
import torch
from torch import nn
import speechkit as sk
from speechkit.train import Method

class Pruning(Method, nn.Module):
    def start(self, model, dataset):
        # of other numbers in each process, unless the first one's are everyone's
        self.register_buffer("kept", torch.rand(model.head.linear.weight.shape) > 0.5)

    def cut(self, model):
        with torch.no_grad():
            model.head.linear.weight.mul_(self.kept)

    def after_step(self, model, step, optimizer):
        self.cut(model)

    def after_average(self, average, step):
        self.cut(average)

@sk.hookimpl
def speechkit_methods():
    return [sk.Component(name="pruning", factory=Pruning, summary="Prunes", formula="w m")]
"""


def test_what_a_method_prunes_is_equal_in_two_processes_and_goes_on(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "acme.py").write_text(PRUNING)
    run = in_two(run, method=("acme/pruning",), schedule="constant")
    done = fit_in_two(
        tmp_path,
        (run, "whole", False),
        (replace(run, steps=3), "parts", False),
        (run, "parts", True),
        plugins=str(tmp_path / "acme.py"),
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "whole", tmp_path / "parts")
    kept = load_file(tmp_path / "whole" / LAST / "training" / "methods.safetensors")["0.kept"]
    assert 0 < kept.float().mean() < 1
    for saved in (weights(tmp_path / "whole"), load(tmp_path / "whole" / LAST).state_dict()):
        assert torch.equal(saved["head.linear.weight"] != 0, kept)


def test_two_processes_go_on_bit_by_bit(run: Run, tmp_path: Path) -> None:
    run = in_two(run, model=replace(run.model, norm="batch", dropout=0.2))
    half = replace(run, steps=3, schedule="constant")
    runs = (run, "whole", False), (half, "parts", False), (run, "parts", True)
    runs = [(replace(one, schedule="constant"), out, resume) for one, out, resume in runs]
    done = fit_in_two(tmp_path, *runs)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(TrainingError, match="was of 2 processes, not 1; resume it with as many"):
        fit(replace(run, devices=1, steps=9), tmp_path / "parts", resume=True, device="cpu")


def test_a_process_that_fails_says_why_in_one_line(run: Run, tmp_path: Path) -> None:
    rows = read_manifest(run.data.train)
    rows[3].audio.write_bytes(b"RIFF")
    done = fit_in_two(tmp_path, (in_two(run), "out", False))
    assert done.returncode
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert any(str(rows[3].audio) in line for line in lines)
    assert all("lost another one" in line for line in lines if str(rows[3].audio) not in line)
    assert f'Traceback (most recent call last):\n  File "{tmp_path}' not in done.stderr


def test_the_number_of_processes_must_be_the_one_started(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(TrainingError, match=r"4 processes were started for devices=1, nodes=1; "):
        fit(run, tmp_path / "out", device="cpu")


def assert_same(whole: Path, killed: Path) -> None:
    """Every byte of the state, the best model and the figures."""
    files = [path.relative_to(whole) for path in (whole / LAST).rglob("*") if path.is_file()]
    assert len(files) >= 6
    for file in [*files, Path(BEST, "model.safetensors"), Path("metrics.jsonl")]:
        assert (whole / file).read_bytes() == (killed / file).read_bytes(), file


def fit_until_killed(run: Run, out: Path, delay_s: float | None) -> bool:
    """Fits in another process, which gets SIGKILL so long after its start unless it has ended."""
    process = multiprocessing.get_context("fork").Process(
        target=fit, args=(run, out), kwargs={"resume": (out / "run.json").exists(), "device": "cpu"}
    )
    process.start()
    process.join(delay_s)
    # it may have ended by now, or end before the signal comes
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_is_as_one_that_was_not(
    nets: dict[str, Any], run: Run, tmp_path: Path, kills: int
) -> None:
    chance = random.Random(0)
    run = replace(
        run, model=replace(nets["clip"], dropout=0.2), steps=24, eval_every=5, save_every=2
    )
    whole = tmp_path / "whole"
    # the second one is as quick as those that will be killed
    fit(run, tmp_path / "first", device="cpu")
    started_s = time.perf_counter()
    assert not fit_until_killed(run, whole, delay_s=None)
    whole_s = time.perf_counter() - started_s
    number = 0
    while kills:
        number += 1
        out = tmp_path / str(number)
        while fit_until_killed(run, out, chance.uniform(0, whole_s / 2) if kills else None):
            kills -= 1
        assert_same(whole, out)
        assert not list(out.glob(".*"))
        board = EventAccumulator(str(out / "tensorboard")).Reload()
        logged = {row["step"]: row["loss"] for row in figures(out) if "loss" in row}
        seen = {event.step: event.value for event in board.Scalars("loss")}
        assert seen == pytest.approx(logged)


def test_figures_are_written_when_they_are_logged(tmp_path: Path) -> None:
    with Journal(tmp_path, steps=50) as journal:
        for step in range(1, 51):
            journal.log(step, loss=1.0)
            board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
            assert len(board.Scalars("loss")) == len(figures(tmp_path)) == step


def test_a_line_that_was_being_written_is_dropped(run: Run, tmp_path: Path) -> None:
    fit(run, tmp_path / "whole", device="cpu")
    fit(replace(run, steps=3, schedule="constant"), tmp_path / "parts", device="cpu")
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    fit(run, tmp_path / "parts", resume=True, device="cpu")
    assert [row["step"] for row in figures(tmp_path / "parts")] == [
        row["step"] for row in figures(tmp_path / "whole")
    ]


def test_a_run_killed_before_its_first_save_starts_over(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_json(out / "run.json", to_dict(run))
    assert fit(run, out, resume=True, device="cpu") == fit(run, tmp_path / "new", device="cpu")
    assert_same(tmp_path / "new", out)
