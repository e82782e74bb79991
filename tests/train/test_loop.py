"""Training runs: what they write, how they go on, and what stops them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from speechkit.checkpoint import load, save
from speechkit.component import Component
from speechkit.config import from_dict, to_dict, write_json
from speechkit.data import read_audio, read_manifest, write_manifest
from speechkit.errors import (
    ComponentError,
    ConfigError,
    ManifestError,
    SpeechkitError,
    TrainingError,
)
from speechkit.frontend import fit_statistics
from speechkit.hookspecs import hookimpl
from speechkit.models import build
from speechkit.plugins import registry
from speechkit.tasks.evaluation import evaluate
from speechkit.train import Data, Run, dry_run, fit
from speechkit.train.resume import BEST, LAST, changed_settings

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


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "half"])
def test_a_precision_that_does_not_train_is_refused(plain: Run, precision: str) -> None:
    with pytest.raises(ConfigError, match=f"precision={precision}: give 32-true, bf16-mixed"):
        replace(plain, precision=precision)


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
    metrics = fit(run, tmp_path / "out", device="cpu")
    best = load(tmp_path / "out" / BEST)
    assert metrics == evaluate(best, data.dev)
    assert metrics["n"] == 4
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
    metrics = fit(run, whole, device="cpu")

    write_json(tmp_path / "run.json", to_dict(run))
    code = [sys.executable, "-c", KILLED_AT_13, str(tmp_path / "run.json"), str(killed)]
    died = subprocess.run(code, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert figures(killed)[-1]["step"] == 12
    assert fit(run, killed, resume=True, device="cpu") == metrics

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
    with pytest.raises(
        TrainingError, match=r"model\.activation was relu in .*run\.json and is silu now"
    ):
        fit(other, tmp_path / "out", resume=True, device="cpu")


def test_a_loss_that_is_not_finite_names_the_files(plain: Run, tmp_path: Path) -> None:
    run = replace(plain, optimizer="sgd:lr=1e14", clip_norm=None, steps=9)
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
    message = f"{utterances[-1].place}: no label 'hihg'. Did you mean 'high'? Known: high, low"
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
    with pytest.raises(ConfigError, match=f"{name}=0: give a number from 1 to"):
        replace(plain, **changes)


@pytest.mark.parametrize(("name", "value"), [("clip_norm", 0), ("clip_norm", -1), ("ema", 2)])
def test_a_bound_or_a_decay_is_in_its_range(plain: Run, name: str, value: float) -> None:
    changes: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=f"{name}={value}: give a"):
        replace(plain, **changes)


def test_a_batch_has_a_positive_limit(plain: Run) -> None:
    with pytest.raises(ConfigError, match="batch_seconds=-5: give a positive number"):
        replace(plain.data, batch_seconds=-5.0)
    with pytest.raises(ConfigError, match="a batch has no limit"):
        replace(plain.data, batch_size=None, batch_seconds=None)


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
        plain, model=replace(plain.model, labels=labels), start_from=tmp_path / "first" / LAST
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
        plain, model=replace(plain.model, blocks=blocks), start_from=tmp_path / "first" / LAST
    )
    with pytest.raises(
        TrainingError, match=r"start_from=.*first/last: encoder\..* there and \[.*same net"
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


def test_hooks_are_called_in_order(plain: Run, tmp_path: Path) -> None:
    calls: list[Any] = []

    class Watcher:
        @hookimpl
        def speechkit_run_start(self, run: Run) -> None:
            calls.append(("start", run))

        @hookimpl
        def speechkit_run_step(self, step: int, loss: float) -> None:
            calls.append(("step", step))
            assert loss > 0

        @hookimpl
        def speechkit_run_eval(self, run: Run, metrics: dict[str, float]) -> None:
            calls.append(("eval", metrics["n"]))

        @hookimpl
        def speechkit_run_end(self) -> None:
            calls.append(("end", (tmp_path / "out" / LAST).is_dir()))

    watcher = Watcher()
    registry().manager.register(watcher)
    try:
        fit(replace(plain, steps=3, eval_every=2), tmp_path / "out", device="cpu")
    finally:
        registry().manager.unregister(watcher)
    steps: list[Any] = [("step", 1), ("step", 2), ("eval", 4), ("step", 3), ("eval", 4)]
    assert [name for name, _ in calls] == ["start", *(name for name, _ in steps), "end"]
    assert calls[0][1].steps == 3
    assert calls[1:-1] == steps
    assert calls[-1] == ("end", True)


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


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings so far, one line each."""

    def lines() -> list[str]:
        found = [
            record.getMessage() for record in caplog.records if record.name.startswith("speech")
        ]
        assert all(line.count("\n") == 0 for line in found)
        return found

    return lines


@pytest.fixture
def spelled(plain: Run, nets: dict[str, Any]) -> Run:
    """A few steps of recognition."""
    return replace(plain, model=nets["ctc"], steps=2)


def with_texts(manifest: Path, texts: list[str]) -> list[str]:
    """Gives a manifest's first utterances other texts; the names of their files."""
    utterances = read_manifest(manifest)
    changed = [replace(u, text=text) for u, text in zip(utterances, texts, strict=False)]
    write_manifest(manifest, [*changed, *utterances[len(changed) :]])
    return [str(u.audio) for u in changed]


def test_a_run_whose_texts_are_all_longer_than_their_frames_does_not_start(
    spelled: Run, tmp_path: Path
) -> None:
    # 0.4 s are 20 frames of 20 ms; ten times "ll" needs 29
    names = with_texts(spelled.data.train, ["hill" * 10] * 8)
    message = rf"8 of 8 utterances are too short.*{names[0]}: 40 labels in 20 frames of 20 ms; "
    with pytest.raises(TrainingError, match=message):
        fit(spelled, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", [fit, lambda run, out: dry_run(run)])
def test_a_run_whose_texts_are_all_too_long_once_augmented_does_not_start(
    spelled: Run, tmp_path: Path, start: Callable[[Run, Path], object]
) -> None:
    names = with_texts(spelled.data.train, ["hi" * 10] * 8)
    faster = replace(spelled, augment=("speed:min=1.5,max=2",))
    with pytest.raises(TrainingError, match=f"augmented, all 8 .*{names[0]}: 20 labels in 1"):
        start(faster, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "possible"), [("hi" * 10, True), ("hil" + "hi" * 9, False)])
def test_a_text_is_possible_down_to_the_frame(
    spelled: Run, tmp_path: Path, logged: Callable[[], list[str]], text: str, possible: bool
) -> None:
    (name,) = with_texts(spelled.data.train, [text])
    fit(spelled, tmp_path / "out", device="cpu")
    assert logged() == [] if possible else f"{name}: 21 labels in 20 frames" in logged()[0]


def test_utterances_without_an_alignment_do_not_count(spelled: Run, tmp_path: Path) -> None:
    run = replace(
        spelled,
        model=replace(
            spelled.model, norm="none", frontend="log_mel:n_mels=16,normalize=per_feature"
        ),
        data=replace(spelled.data, batch_size=8),
        steps=1,
        optimizer="sgd:lr=0.01",
        log_every=1,
    )
    with_texts(run.data.train, ["hill" * 10] * 4)
    fit(run, tmp_path / "some", device="cpu")
    write_manifest(run.data.train, read_manifest(run.data.train)[4:])
    fit(run, tmp_path / "alone", device="cpu")
    some, alone = weights(tmp_path / "some"), weights(tmp_path / "alone")
    for name, value in alone.items():
        torch.testing.assert_close(some[name], value, rtol=1e-4, atol=1e-6)
    losses = [figures(tmp_path / out)[0]["loss"] for out in ("some", "alone")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_batch_without_an_alignment_changes_no_weight(spelled: Run, tmp_path: Path) -> None:
    run = replace(
        spelled,
        data=replace(spelled.data, batch_size=1),
        steps=8,
        optimizer="sgd:lr=0.01",
        log_every=1,
    )
    with_texts(run.data.train, ["hill" * 10] * 7)
    fit(run, tmp_path / "out", device="cpu")
    losses = [row["loss"] for row in figures(tmp_path / "out") if "loss" in row]
    assert sum(loss > 0 for loss in losses) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"duration_s": 7.0}, r"ends at .* before 7 s"),
        ({"segments": ()}, "0 positives"),
    ],
)
def test_a_dev_set_that_cannot_be_judged_ends_a_run_before_its_first_step(
    plain: Run, nets: dict[str, Any], tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    run = replace(plain, model=nets["frame"])
    write_manifest(run.data.dev, [replace(u, **change) for u in read_manifest(run.data.dev)])
    for go in (lambda: fit(run, tmp_path / "out", device="cpu"), lambda: dry_run(run)):
        with pytest.raises(SpeechkitError, match=says):
            go()
        assert not (tmp_path / "out").exists()


class Breaking:
    """Ends a run in its n-th evaluation."""

    def __init__(self, number: int) -> None:
        self.left = number

    @hookimpl
    def speechkit_run_eval(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_run_that_ends_while_it_is_judged_goes_on_bit_by_bit(run: Run, tmp_path: Path) -> None:
    run = replace(run, steps=5, eval_every=2, save_every=5)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    metrics = fit(run, whole, device="cpu")
    breaking = Breaking(2)
    registry().manager.register(breaking)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(run, broken, device="cpu")
    finally:
        registry().manager.unregister(breaking)
    assert json.loads((broken / LAST / "training" / "loop.json").read_text())["step"] == 4
    assert fit(run, broken, resume=True, device="cpu") == metrics
    for file in ("last/training/loop.json", "last/model.safetensors", "best/model.safetensors"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes(), file
    assert figures(whole) == figures(broken)


def test_a_state_with_the_names_of_an_earlier_version_is_read(plain: Run, tmp_path: Path) -> None:
    run = replace(plain, steps=1)
    metrics = fit(run, tmp_path / "out", device="cpu")
    file = tmp_path / "out/last/training/loop.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "marks": stored.pop("metrics")}))
    assert fit(run, tmp_path / "out", resume=True, device="cpu") == metrics


NO_TENSORS = "\2\0\0\0\0\0\0\0{}"
"""A safetensors file that holds nothing."""


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("last/training/loop.json", "[" * 100_000, r"loop\.json: it is nested deeper"),
        ("last/training/loop.json", '{"step": "no"}', r"loop\.json: step"),
        ("last/training/loop.json", "{}", "training is damaged: loop.json names no step"),
        ("last/training/rng.safetensors", NO_TENSORS, "training is damaged: 'cpu'"),
        ("last/training/weights.safetensors", NO_TENSORS, "training is damaged: Error.* loading"),
        ("last/training/optimizer.safetensors", NO_TENSORS, "training is damaged: it is not JSON"),
        ("metrics.jsonl", "\udcff\n", r"metrics\.jsonl is not a run's figures"),
        ("metrics.jsonl", "{}\n", r"metrics\.jsonl is not a run's figures"),
        ("metrics.jsonl", "[" * 100_000 + "\n", r"metrics\.jsonl is not a run's figures"),
        ("run.json", "{", r"run\.json: it is not JSON"),
    ],
)
def test_a_damaged_state_of_a_run_is_one_line(
    plain: Run, tmp_path: Path, file: str, content: str, says: str
) -> None:
    fit(replace(plain, steps=1), tmp_path / "out", device="cpu")
    (tmp_path / "out" / file).write_text(content, errors="surrogateescape")
    with pytest.raises((TrainingError, ConfigError), match=says):
        fit(replace(plain, steps=2), tmp_path / "out", resume=True, device="cpu")


def test_utterances_that_are_left_out_are_counted_with_their_hours(
    plain: Run, tmp_path: Path, logged: Callable[[], list[str]]
) -> None:
    # 0.4, 0.42, ... 0.54 s
    run = replace(plain, steps=1, data=replace(plain.data, max_duration_s=0.45))
    fit(run, tmp_path / "out", device="cpu")
    assert logged() == [
        "5 of 8 utterances, 0.00069 hours, are longer than max_duration_s=0.45 and left out"
    ]


def test_a_run_goes_on_with_other_settings_of_its_optimizer(
    plain: Run, tmp_path: Path, logged: Callable[[], list[str]]
) -> None:
    plain = replace(plain, optimizer="adamw:lr=0.01,weight_decay=0.01", steps=1)
    later = replace(plain, optimizer="adamw:lr=0.01,weight_decay=5,beta1=0.5", steps=2)
    for name, again in (("same", replace(plain, steps=2)), ("other", later)):
        fit(plain, tmp_path / name, device="cpu")
        fit(again, tmp_path / name, resume=True, device="cpu")
    assert logged() == [
        "going on at step 1 with other steps",
        "going on at step 1 with other optimizer, steps",
    ]
    file = tmp_path / "other" / LAST / "training" / "optimizer.safetensors"
    with safe_open(file, "pt") as stored:
        groups = json.loads(stored.metadata()["groups"])
    assert groups[0]["weight_decay"] == 5
    assert groups[0]["betas"] == [0.5, 0.999]
    same, other = weights(tmp_path / "same"), weights(tmp_path / "other")
    assert not torch.equal(same["head.linear.weight"], other["head.linear.weight"])


CHANGES: dict[str, Any] = {
    "optimizer": "adamw:lr=0.5",
    "schedule": "constant",
    "loss": "cross_entropy:smoothing=0.1",
    "augment": ("gain",),
    "method": ("flat_start",),
    "start_from": Path("other"),
    "steps": 5,
    "accumulate": 2,
    "clip_norm": 0.1,
    "ema": 0.5,
    "precision": "bf16-mixed",
    "compile": True,
    "devices": 2,
    "nodes": 2,
    "strategy": "fsdp",
    "eval_every": 7,
    "save_every": 7,
    "log_every": 7,
    "seed": 1,
}
DATA_CHANGES: dict[str, Any] = {
    "train": Path("other.jsonl"),
    "dev": Path("other.jsonl"),
    "batch_size": 2,
    "batch_seconds": 9.0,
    "buckets": 1,
    "window": 5,
    "max_duration_s": 9.0,
    "workers": 1,
    "cache": True,
}
REFUSED = {"optimizer", "method", "start_from", "seed"}


@pytest.mark.parametrize("name", [*CHANGES, *(f"data.{name}" for name in DATA_CHANGES)])
def test_each_setting_is_applied_or_refused_in_a_run_that_goes_on(
    plain: Run, name: str, tmp_path: Path
) -> None:
    part, _, key = name.rpartition(".")
    changed = (
        replace(plain, data=replace(plain.data, **{key: DATA_CHANGES[key]}))
        if part
        else replace(plain, **{name: CHANGES[name]})
    )
    if name in REFUSED:
        with pytest.raises(TrainingError, match=rf"{name} .*choose another --out") as caught:
            changed_settings(tmp_path, plain, changed)
        assert len(str(caught.value)) < 450
    else:
        assert changed_settings(tmp_path, plain, changed) == {name}


def test_a_run_stored_under_the_former_name_of_start_from_resumes(
    plain: Run, tmp_path: Path
) -> None:
    save(build(plain.model, seed=5), tmp_path / "first")
    run = replace(plain, start_from=tmp_path / "first", steps=2)
    fit(replace(run, steps=1), tmp_path / "out", device="cpu")
    stored = tmp_path / "out" / "run.json"
    stored.write_text(stored.read_text().replace('"start_from"', '"init"'))
    assert "start_from" not in json.loads(stored.read_text())
    fit(run, tmp_path / "out", resume=True, device="cpu")
    assert json.loads(stored.read_text())["start_from"] == str(tmp_path / "first")
    with pytest.raises(TrainingError, match="start_from was "):
        fit(replace(run, start_from=None), tmp_path / "out", resume=True, device="cpu")


def test_the_table_of_settings_names_every_field() -> None:
    assert {"model", "data", *CHANGES} == {field.name for field in fields(Run)}
    assert set(DATA_CHANGES) == {field.name for field in fields(Data)}


def test_another_plan_of_batches_begins_the_epoch_anew(
    plain: Run, corpus: Corpus, tmp_path: Path, logged: Callable[[], list[str]]
) -> None:
    fit(replace(plain, steps=1), tmp_path / "out", device="cpu")
    data = replace(plain.data, batch_size=4, dev=corpus(6, "other"))
    metrics = fit(replace(plain, steps=2, data=data), tmp_path / "out", resume=True, device="cpu")
    assert metrics["n"] == 6
    assert logged()[-1] == (
        "going on at step 1 with other data.batch_size, data.dev, steps; the epoch begins anew; "
        "the best model is chosen anew"
    )
    loop = json.loads((tmp_path / "out" / LAST / "training" / "loop.json").read_text())
    assert (loop["epoch"], loop["batch"]) == (0, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"frontend": "log_mel:n_mels=16,normalize=running,window_s=0.025"}, "frontend=log_mel:n_"),
        ({"activation": "silu"}, "activation=relu, not silu"),
        ({"lookahead": 0}, "lookahead=['same', 'same', 'same'], not [0, 0, 0]"),
    ],
)
def test_what_differs_from_the_model_a_run_starts_from_is_named(
    plain: Run,
    tmp_path: Path,
    logged: Callable[[], list[str]],
    change: dict[str, Any],
    says: str,
) -> None:
    save(build(plain.model), tmp_path / "first")
    run = replace(
        plain, model=replace(plain.model, **change), start_from=tmp_path / "first", steps=1
    )
    fit(run, tmp_path / "out", device="cpu")
    assert len(logged()) == 1
    assert f"first was trained with {says}" in logged()[0]


def test_a_run_does_not_start_from_a_model_for_another_sample_rate(
    plain: Run, tmp_path: Path
) -> None:
    save(build(replace(plain.model, sample_rate=8000)), tmp_path / "first")
    with pytest.raises(TrainingError, match="is for 8000 Hz, this run's model for 16000 Hz"):
        fit(replace(plain, start_from=tmp_path / "first"), tmp_path / "out", device="cpu")


@pytest.mark.parametrize("kind", ["ctc", "clip"])
def test_a_head_follows_its_labels(
    plain: Run, nets: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    net = nets[kind]
    first = build(net)
    with torch.no_grad():
        first.head.linear.bias.copy_(torch.arange(len(first.head.linear.bias)))
    save(first, tmp_path / "first")
    run = replace(
        plain,
        model=replace(net, labels=net.labels[::-1]),
        start_from=tmp_path / "first",
        steps=1,
        optimizer="sgd:lr=0.0",
    )
    fit(run, tmp_path / "out", device="cpu")
    bias = weights(tmp_path / "out")["head.linear.bias"].tolist()
    count = len(net.labels)
    assert bias == [*range(count - 1, -1, -1), *range(count, len(bias))]


def test_a_new_head_is_logged(plain: Run, tmp_path: Path, logged: Callable[[], list[str]]) -> None:
    save(build(replace(plain.model, labels=("high", "low", "silence"))), tmp_path / "first")
    fit(replace(plain, start_from=tmp_path / "first", steps=1), tmp_path / "out", device="cpu")
    assert (
        "has 3 labels, others or in another order than this run's 2: the head is new" in logged()[0]
    )


@pytest.mark.parametrize(
    ("kind", "hook"),
    [
        ("method", "methods"),
        ("loss", "losses"),
        ("optimizer", "optimizers"),
        ("schedule", "schedules"),
        ("augment", "augmentations"),
    ],
)
def test_a_component_that_is_none_is_named_before_training(
    plain: Run, tmp_path: Path, kind: str, hook: str
) -> None:
    made = Component(name="nothing", factory=lambda *_: object(), summary="Nothing")
    plugin = ModuleType("acme")
    setattr(plugin, f"speechkit_{hook}", hookimpl(lambda: [made]))
    registry().add(plugin, "acme")
    try:
        named: Any = ("nothing",) if kind in {"method", "augment"} else "nothing"
        run = replace(plain, **{kind: named})
        for go in (lambda: fit(run, tmp_path / "out", device="cpu"), lambda: dry_run(run)):
            with pytest.raises(ComponentError, match="nothing makes an object of type object"):
                go()
    finally:
        registry()._forget(plugin, "acme")
    assert not (tmp_path / "out").exists()
