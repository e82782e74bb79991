"""Training runs: what they write, how they go on, and what stops them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from speechkit.checkpoint import load
from speechkit.config import from_dict, to_dict, write_json
from speechkit.data import read_audio, read_manifest, write_manifest
from speechkit.errors import ConfigError, ManifestError, TrainingError
from speechkit.evaluation import evaluate
from speechkit.frontend import fit_statistics
from speechkit.hookspecs import hookimpl
from speechkit.models import build
from speechkit.plugins import registry
from speechkit.resume import BEST, LAST
from speechkit.train import Data, Run, fit

Corpus = Callable[..., Path]


@pytest.fixture
def data(corpus: Corpus) -> Data:
    return Data(train=corpus(8, "train"), dev=corpus(4, "dev"), batch_size=3)


@pytest.fixture
def run(nets: dict[str, Any], data: Data) -> Run:
    """A few steps of the clip classifier, with everything that draws random numbers."""
    return Run(
        model=replace(nets["clip"], dropout=0.2),
        data=data,
        steps=4,
        optimizer="novograd:lr=0.01,weight_decay=0.001",
        augment=("speed", "white_noise", "spec_augment"),
        ema=0.9,
        clip_norm=1.0,
        eval_every=3,
        save_every=2,
        log_every=1,
    )


@pytest.fixture
def plain(run: Run) -> Run:
    """The same without anything random but the weights."""
    return replace(run, model=replace(run.model, dropout=0.0), augment=(), ema=0.0)


def figures(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_precision_is_that_of_the_products(plain: Run, tmp_path: Path) -> None:
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        fit(replace(plain, precision=precision), tmp_path / precision)
        losses[precision] = [row["loss"] for row in figures(tmp_path / precision) if "loss" in row]
    assert losses["32-true"] != losses["bf16-mixed"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_torch_compile_changes_no_figure(plain: Run, tmp_path: Path) -> None:
    for name, run in {"eager": plain, "compiled": replace(plain, compile=True)}.items():
        fit(run, tmp_path / name, device="cpu")
    before, after = (weights(tmp_path / name) for name in ("eager", "compiled"))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-5, msg=name)


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / LAST / "training" / "weights.safetensors")


def test_each_task_trains_and_leaves_a_model_that_loads(
    net: Any, data: Data, tmp_path: Path
) -> None:
    run = Run(model=net, data=data, steps=3, optimizer="adamw:lr=0.01", log_every=1)
    marks = fit(run, tmp_path / "out", device="cpu")
    best = load(tmp_path / "out" / BEST)
    assert marks == evaluate(best, data.dev)
    assert marks["n"] == 4
    before, after = build(net, run.seed).state_dict(), weights(tmp_path / "out")
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not torch.equal(before["head.linear.weight"], after["head.linear.weight"])
    stored = json.loads((tmp_path / "out" / "run.json").read_text())
    assert from_dict(Run, stored) == run


def test_a_few_steps_learn_two_tones(plain: Run, tmp_path: Path) -> None:
    run = replace(plain, steps=30, optimizer="adamw:lr=0.01", eval_every=30)
    assert fit(run, tmp_path / "out", device="cpu")["accuracy"] == 1.0
    losses = [row["loss"] for row in figures(tmp_path / "out") if "loss" in row]
    assert losses[-1] < losses[0] / 2


KILLED_AT_13 = """
import json, os, signal, sys
import torch
from speechkit import hookimpl
from speechkit.config import from_dict
from speechkit.plugins import registry
from speechkit.train import Run, fit

class Killer:
    @hookimpl
    def speechkit_run_step(self, run, step):
        if step == 13:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
registry().manager.register(Killer())
fit(from_dict(Run, json.load(open(sys.argv[1]))), sys.argv[2], device="cpu")
"""


def test_a_killed_run_goes_on_bit_by_bit(run: Run, tmp_path: Path) -> None:
    run = replace(run, steps=20, eval_every=10, save_every=10)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    marks = fit(run, whole, device="cpu")

    write_json(tmp_path / "run.json", to_dict(run))
    code = [sys.executable, "-c", KILLED_AT_13, str(tmp_path / "run.json"), str(killed)]
    died = subprocess.run(code, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert figures(killed)[-1]["step"] == 12
    assert fit(run, killed, resume=True, device="cpu") == marks

    files = [path.relative_to(whole) for path in (whole / LAST).rglob("*") if path.is_file()]
    assert len(files) >= 6
    for file in [*files, Path(BEST) / "model.safetensors", Path("metrics.jsonl")]:
        assert (whole / file).read_bytes() == (killed / file).read_bytes(), file


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_goes_on_from_any_step(run: Run, tmp_path: Path, steps: int) -> None:
    run = replace(run, save_every=1, schedule="constant")
    fit(run, tmp_path / "whole", device="cpu")
    fit(replace(run, steps=steps), tmp_path / "parts", device="cpu")
    fit(run, tmp_path / "parts", resume=True, device="cpu")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_a_seed_decides_the_weights(run: Run, tmp_path: Path) -> None:
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(replace(run, seed=seed, steps=2), tmp_path / out, device="cpu")
    a, b, c = (weights(tmp_path / out)["head.linear.weight"] for out in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_folder_with_a_run_is_not_started_over(plain: Run, tmp_path: Path) -> None:
    fit(replace(plain, steps=1), tmp_path / "out", device="cpu")
    before = weights(tmp_path / "out")
    with pytest.raises(TrainingError, match=r"holds a run already; add --resume or choose"):
        fit(plain, tmp_path / "out", device="cpu")
    assert torch.equal(weights(tmp_path / "out")["head.linear.bias"], before["head.linear.bias"])


def test_there_must_be_a_run_to_resume(plain: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run to resume; leave out --resume"):
        fit(plain, tmp_path / "out", resume=True, device="cpu")
    assert not (tmp_path / "out").exists()


def test_another_model_does_not_go_on(plain: Run, tmp_path: Path) -> None:
    fit(replace(plain, steps=1), tmp_path / "out", device="cpu")
    other = replace(plain, model=replace(plain.model, activation="silu"))
    with pytest.raises(TrainingError, match="was trained with another model"):
        fit(other, tmp_path / "out", resume=True, device="cpu")


def test_a_loss_that_is_not_finite_names_the_files(plain: Run, tmp_path: Path) -> None:
    run = replace(plain, optimizer="sgd:lr=1e30", clip_norm=None, steps=9)
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d") as caught:
        fit(run, tmp_path / "out", device="cpu")
    files = [str(utterance.audio) for utterance in read_manifest(run.data.train)]
    assert 1 <= sum(file in str(caught.value) for file in files) <= 3
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.glob("out/.*"))


@pytest.mark.parametrize("name", ["train", "dev"])
def test_an_unknown_label_is_named_before_training(plain: Run, tmp_path: Path, name: str) -> None:
    manifest = getattr(plain.data, name)
    utterances = read_manifest(manifest)
    write_manifest(manifest, [*utterances[:-1], replace(utterances[-1], label="hihg")])
    message = f"{utterances[-1].audio}: no label 'hihg'. Did you mean 'high'? Known: high, low"
    with pytest.raises(ManifestError) as caught:
        fit(plain, tmp_path / "out", device="cpu")
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


def test_utterances_that_are_all_too_long_are_refused(plain: Run, tmp_path: Path) -> None:
    run = replace(plain, data=replace(plain.data, max_duration_s=0.1))
    with pytest.raises(TrainingError, match=r"longer than max_duration_s=0\.1; raise it"):
        fit(run, tmp_path / "out", device="cpu")


@pytest.mark.parametrize("name", ["steps", "accumulate", "eval_every", "save_every", "log_every"])
def test_counts_start_at_one(plain: Run, name: str) -> None:
    changes: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=f"{name}=0: give at least 1"):
        replace(plain, **changes)


def test_two_accumulated_batches_are_one_of_twice_the_size(
    plain: Run, corpus: Corpus, tmp_path: Path
) -> None:
    same = corpus(4, "same", equal=True)
    model = replace(plain.model, norm="none")
    once = replace(
        plain,
        model=model,
        data=Data(train=same, dev=same, batch_size=4),
        steps=2,
        optimizer="sgd:lr=0.1",
        clip_norm=0.5,
    )
    twice = replace(once, data=replace(once.data, batch_size=2), accumulate=2)
    fit(once, tmp_path / "once", device="cpu")
    fit(twice, tmp_path / "twice", device="cpu")
    start, one, two = (
        build(model).state_dict(),
        weights(tmp_path / "once"),
        weights(tmp_path / "twice"),
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(one["head.linear.bias"], start["head.linear.bias"], atol=1e-4)


def test_the_averaged_weights_are_saved_and_evaluated(plain: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit(replace(plain, ema=0.9, steps=1), out, device="cpu")
    first, trained = build(plain.model, plain.seed).state_dict(), weights(out)
    # d rises as (1 + step) / (10 + step)
    decay = 2 / 11
    for folder in (LAST, BEST):
        for name, average in load(out / folder).state_dict().items():
            if average.is_floating_point() and not name.startswith("frontend."):
                expected = decay * first[name] + (1 - decay) * trained[name]
                torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)


def test_the_schedule_scales_the_learning_rate(plain: Run, tmp_path: Path) -> None:
    run = replace(plain, optimizer="sgd:lr=0.5", schedule="cosine:warmup=2,floor=0.1", steps=6)
    fit(run, tmp_path / "out", device="cpu")
    factor = registry().build("schedule", run.schedule, run.steps)
    rates = [row["lr"] for row in figures(tmp_path / "out") if "lr" in row]
    assert rates == pytest.approx([0.5 * factor(step) for step in range(6)])
    assert len(set(rates)) > 3


def test_figures_are_logged_by_step(plain: Run, tmp_path: Path) -> None:
    fit(replace(plain, steps=7, log_every=2, eval_every=3), tmp_path / "out", device="cpu")
    rows = figures(tmp_path / "out")
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 7]
    assert [row["step"] for row in rows if "accuracy" in row] == [3, 6, 7]
    # three batches of eight utterances make an epoch
    assert [row["epoch"] for row in rows if "epoch" in row] == [0, 1, 1, 2]
    assert list((tmp_path / "out" / "tensorboard").iterdir())


def test_statistics_of_the_training_data_are_fitted_and_stored(plain: Run, tmp_path: Path) -> None:
    model = replace(plain.model, frontend="log_mel:n_mels=16,normalize=fixed")
    fit(replace(plain, model=model, steps=1), tmp_path / "out", device="cpu")
    expected = build(model)
    fit_statistics(
        expected.frontend, [read_audio(u.audio) for u in read_manifest(plain.data.train)]
    )
    stored = load(tmp_path / "out" / BEST).frontend.state_dict()
    assert stored.keys() == expected.frontend.state_dict().keys() != set()
    for name, value in expected.frontend.state_dict().items():
        assert torch.equal(stored[name], value)
        assert not torch.equal(value, build(model).frontend.state_dict()[name])


@pytest.mark.parametrize("labels", [("low", "high"), ("high", "low", "silence")])
def test_a_run_starts_from_another_model(
    plain: Run, tmp_path: Path, labels: tuple[str, ...]
) -> None:
    plain = replace(
        plain, model=replace(plain.model, frontend="log_mel:n_mels=16,normalize=fixed"), steps=2
    )
    fit(plain, tmp_path / "first", device="cpu")
    first = load(tmp_path / "first" / LAST).state_dict()
    later = replace(
        plain, model=replace(plain.model, labels=labels), init=tmp_path / "first" / LAST
    )
    # a step of no length shows where the run started
    still = replace(later, optimizer="sgd:lr=0.0", steps=1)
    fit(still, tmp_path / "still", device="cpu")
    for name, value in weights(tmp_path / "still").items():
        kept = not name.startswith("head.") or labels == plain.model.labels
        if "running_" not in name and "num_batches" not in name:
            assert torch.equal(value, first[name]) if kept else value.shape[0] == len(labels)


def test_a_run_does_not_start_from_another_net(plain: Run, tmp_path: Path) -> None:
    fit(replace(plain, steps=1), tmp_path / "first", device="cpu")
    blocks = (*plain.model.blocks[:-1], replace(plain.model.blocks[-1], kernel=3))
    other = replace(
        plain, model=replace(plain.model, blocks=blocks), init=tmp_path / "first" / LAST
    )
    with pytest.raises(
        TrainingError, match=r"init=.*first/last: encoder\..* there and \[.*same net"
    ):
        fit(other, tmp_path / "other", device="cpu")


@pytest.mark.parametrize("augment", ["gain:min_db=-30,max_db=-20", "spec_augment:freq_width=16"])
def test_audio_and_features_are_augmented_in_training(
    plain: Run, tmp_path: Path, augment: str
) -> None:
    fit(replace(plain, steps=1), tmp_path / "as_it_is", device="cpu")
    fit(replace(plain, steps=1, augment=(augment,)), tmp_path / "changed", device="cpu")
    one, other = (weights(tmp_path / out) for out in ("as_it_is", "changed"))
    assert not torch.equal(one["head.linear.weight"], other["head.linear.weight"])


def test_hooks_are_told_in_order(plain: Run, tmp_path: Path) -> None:
    told: list[Any] = []

    class Watcher:
        @hookimpl
        def speechkit_run_start(self, run: Run) -> None:
            told.append(("start", run))

        @hookimpl
        def speechkit_run_step(self, step: int, loss: float) -> None:
            told.append(("step", step))
            assert loss > 0

        @hookimpl
        def speechkit_run_eval(self, run: Run, metrics: dict[str, float]) -> None:
            told.append(("eval", metrics["n"]))

        @hookimpl
        def speechkit_run_end(self) -> None:
            told.append(("end", (tmp_path / "out" / LAST).is_dir()))

    watcher = Watcher()
    registry().manager.register(watcher)
    try:
        fit(replace(plain, steps=3, eval_every=2), tmp_path / "out", device="cpu")
    finally:
        registry().manager.unregister(watcher)
    steps: list[Any] = [("step", 1), ("step", 2), ("eval", 4), ("step", 3), ("eval", 4)]
    assert [name for name, _ in told] == ["start", *(name for name, _ in steps), "end"]
    assert told[0][1].steps == 3
    assert told[1:-1] == steps
    assert told[-1] == ("end", True)


def test_workers_change_nothing(run: Run, tmp_path: Path) -> None:
    run = replace(run, steps=2, model=replace(run.model, dropout=0.0))
    fit(run, tmp_path / "none", device="cpu")
    fit(replace(run, data=replace(run.data, workers=1)), tmp_path / "one", device="cpu")
    none, one = weights(tmp_path / "none"), weights(tmp_path / "one")
    assert all(torch.equal(value, one[name]) for name, value in none.items())


def test_the_task_s_loss_is_the_default(plain: Run, tmp_path: Path) -> None:
    fit(replace(plain, steps=1), tmp_path / "default", device="cpu")
    fit(replace(plain, steps=1, loss="cross_entropy"), tmp_path / "named", device="cpu")
    fit(
        replace(plain, steps=1, loss="cross_entropy:smoothing=0.3"),
        tmp_path / "smooth",
        device="cpu",
    )
    default, named, smooth = (figures(tmp_path / out) for out in ("default", "named", "smooth"))
    assert default == named != smooth
