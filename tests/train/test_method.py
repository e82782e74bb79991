"""Methods: when each call is made, that a step repeats itself, and what goes on with a run."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from speechkit.checkpoint import load, save
from speechkit.component import Component
from speechkit.data import Batch, UtteranceDataset, read_manifest, write_manifest
from speechkit.errors import ComponentError, SpeechkitError, TrainingError
from speechkit.hookspecs import hookimpl
from speechkit.models import Model, Output, build
from speechkit.nn import Chunk
from speechkit.plugins import registry
from speechkit.testing.runs import FILES, assert_same_files, fit_in_parts
from speechkit.train import Data, Method, Run, dry_run, fit, loop
from speechkit.train.distributed import launch

Corpus = Callable[..., Path]


@pytest.fixture
def run(nets: dict[str, Any], corpus: Corpus) -> Run:
    """A few steps with everything that draws random numbers, two batches a step."""
    return Run(
        model=replace(nets["clip"], dropout=0.2),
        data=Data(train=corpus(8, "train"), dev=corpus(4, "dev"), batch_size=3),
        steps=4,
        schedule="constant",
        augment=("speed", "white_noise", "spec_augment"),
        method=("acme",),
        accumulate=2,
        ema=0.9,
        clip_norm=1.0,
        eval_every=3,
        save_every=2,
        log_every=1,
    )


@contextmanager
def offered(factory: Callable[..., Any]) -> Iterator[None]:
    """The method `acme` is there by name."""
    made = Component(name="acme", factory=factory, summary="A method", formula="x")
    plugin = ModuleType("acme")
    plugin.speechkit_methods = hookimpl(lambda: [made])  # type: ignore[attr-defined]
    registry().add(plugin, "acme")
    try:
        yield
    finally:
        registry()._forget(plugin, "acme")


def fit_with(factory: Callable[..., Any], run: Run, out: Path, resume: bool = False) -> None:
    with offered(factory):
        fit(run, out, resume, device="cpu")


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "last/training/weights.safetensors")


@dataclass
class Recorder(Method):
    """Writes down each call."""

    calls: list[Any] = field(default_factory=list)
    wants_features = True

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        self.calls.append(("start", len(dataset), self.run_seed))

    def prepare(self, model: Model, dataset: UtteranceDataset) -> None:
        self.calls.append(("prepare", len(dataset)))

    def extra_loss(self, batch: Batch, output: Output, features: Chunk) -> None:
        assert len(features.x) == len(batch.indices) == len(output.scores)
        self.calls.append("extra_loss")

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        self.calls.append(("gradients", step))
        return again()

    def before_step(self, model: Model, step: int) -> None:
        assert all(p.grad is not None for p in model.parameters())
        self.calls.append(("before_step", step))

    def after_step(self, model: Model, step: int, optimizer: torch.optim.Optimizer) -> None:
        assert len(optimizer.state) == len(list(model.parameters()))
        self.calls.append(("after_step", step))

    def after_average(self, average: Model, step: int) -> None:
        self.calls.append(("after_average", step))


def test_calls_come_in_order_and_change_nothing(run: Run, tmp_path: Path) -> None:
    recorder = Recorder()
    fit_with(lambda: recorder, replace(run, steps=2, seed=5), tmp_path / "recorded")
    in_a_step = ["gradients", "extra_loss", "extra_loss", "before_step", "after_step"]
    assert recorder.calls == [
        ("start", 8, 5),
        ("prepare", 8),
        *(
            name if name == "extra_loss" else (name, step)
            for step in (1, 2)
            for name in (*in_a_step, "after_average")
        ),
    ]
    fit(replace(run, steps=2, seed=5, method=()), tmp_path / "plain", device="cpu")
    assert_same_files(tmp_path / "plain", tmp_path / "recorded")


class Nothing(Method):
    """All calls as they are in the base class."""


def test_a_method_without_calls_is_the_plain_run_to_the_bit(run: Run, tmp_path: Path) -> None:
    fit_with(Nothing, run, tmp_path / "nothing")
    fit(replace(run, method=()), tmp_path / "plain", device="cpu")
    assert_same_files(tmp_path / "plain", tmp_path / "nothing")


class Repeating(Method):
    """Computes each step's gradients three times and compares them."""

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        runs = []
        for _ in range(3):
            runs.append((again(), [p.grad for p in model.parameters()]))
        (loss, first), *others = runs
        for other, gradients in others:
            assert other == loss
            assert all(map(torch.equal, first, gradients))
        return loss


def test_a_step_repeats_itself_to_the_bit(run: Run, tmp_path: Path) -> None:
    fit_with(Repeating, run, tmp_path / "repeated")
    fit(replace(run, method=()), tmp_path / "plain", device="cpu")
    assert_same_files(tmp_path / "plain", tmp_path / "repeated")


@dataclass
class Scaled(Method):
    """Multiplies the gradients."""

    factor: float
    seen: list[Tensor] = field(default_factory=list)

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        loss = again()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(self.factor)
        self.seen.append(next(p.grad.clone() for p in model.parameters()))
        return loss


def test_a_later_method_is_around_an_earlier_one(run: Run, tmp_path: Path) -> None:
    made = iter([Scaled(3.0), outer := Scaled(5.0)])
    fit_with(lambda: next(made), replace(run, method=("acme", "acme"), steps=1), tmp_path / "two")
    plain = Scaled(1.0)
    fit_with(lambda: plain, replace(run, steps=1), tmp_path / "plain")
    torch.testing.assert_close(outer.seen[0], 15 * plain.seen[0])


class Projected(Method, nn.Module):
    """Trains z where the weight of the head is z, by the gradient of that weight."""

    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.empty(0))

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        self.z = nn.Parameter(model.head.linear.weight.detach().clone())

    def before_step(self, model: Model, step: int) -> None:
        weight = model.head.linear.weight
        self.z.grad, weight.grad = weight.grad, None

    def after_step(self, model: Model, step: int, optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            model.head.linear.weight.copy_(self.z)


def test_a_method_may_train_what_a_weight_is_made_of(run: Run, tmp_path: Path) -> None:
    run = replace(run, clip_norm=None)
    fit_with(Projected, run, tmp_path / "projected")
    fit_with(Projected, replace(run, steps=2), tmp_path / "parts")
    fit_with(Projected, run, tmp_path / "parts", resume=True)
    fit(replace(run, method=()), tmp_path / "plain", device="cpu")
    assert_same_files(tmp_path / "plain", tmp_path / "projected", FILES[:2])
    state = "last/training/methods.safetensors"
    assert_same_files(tmp_path / "projected", tmp_path / "parts", (*FILES[:4], state))
    z = load_file(tmp_path / "projected" / state)
    assert torch.equal(z["0.z"], weights(tmp_path / "projected")["head.linear.weight"])


class Pruning(Method, nn.Module):
    """Keeps the larger half of each 1×1 layer's weights, chosen in the second step."""

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        for name, weight in self.pruned(model).items():
            self.register_buffer(name.replace(".", "_"), torch.ones_like(weight, dtype=torch.bool))

    @staticmethod
    def pruned(model: Model) -> dict[str, Tensor]:
        found = model.named_parameters()
        return {name: weight for name, weight in found if name.endswith("channel.weight")}

    @torch.no_grad()
    def cut(self, model: Model) -> None:
        for name, weight in self.pruned(model).items():
            weight.mul_(self.get_buffer(name.replace(".", "_")))

    def after_step(self, model: Model, step: int, optimizer: torch.optim.Optimizer) -> None:
        if step == 2:
            for name, weight in self.pruned(model).items():
                median = weight.detach().abs().median()
                self.get_buffer(name.replace(".", "_")).copy_(weight.detach().abs() > median)
        self.cut(model)

    def after_average(self, average: Model, step: int) -> None:
        self.cut(average)


def zeros(model: Model) -> set[float]:
    return {float((w == 0).double().mean()) for w in Pruning.pruned(model).values()}


def test_what_is_pruned_stays_so_in_the_average_and_in_a_run_that_goes_on(
    run: Run, tmp_path: Path
) -> None:
    fit_with(Pruning, run, tmp_path / "whole")
    fit_with(Pruning, replace(run, steps=3), tmp_path / "parts")
    fit_with(Pruning, run, tmp_path / "parts", resume=True)
    assert_same_files(tmp_path / "whole", tmp_path / "parts", FILES[:4])
    assert zeros(load(tmp_path / "whole" / "last")) == {0.5}


@pytest.mark.parametrize("net", ["clip", "frame"])
@pytest.mark.parametrize("method", ["consistency", "distill:teacher=t,cache=c", "flat_start"])
def test_a_method_for_ctc_is_refused_by_other_tasks(
    nets: dict[str, Any], tmp_path: Path, method: str, net: str
) -> None:
    name = method.partition(":")[0]
    made = registry().derived("method", method, Method)
    with pytest.raises(TrainingError, match=f"method {name} works on log-probabilities of CTC"):
        made.start(build(nets[net]), [])


@pytest.mark.parametrize("method", ["consistency", "distill", "flat_start", "phones"])
def test_a_run_with_a_method_of_the_core_goes_on_bit_by_bit(
    run: Run, nets: dict[str, Any], tmp_path: Path, method: str
) -> None:
    phones = {"hi": "HH AY", "lo": "L OW"}
    rows = read_manifest(run.data.train)
    write_manifest(run.data.train, [replace(u, phones=phones[u.text or ""]) for u in rows])
    save(build(nets["ctc"], seed=1), tmp_path / "teacher")
    spec = {
        "distill": f"distill:teacher={tmp_path / 'teacher'},cache={tmp_path / 'cache'}",
        "phones": "phones:after=0",
    }.get(method, method)
    run = replace(
        run,
        model=replace(nets["ctc"], dropout=0.2),
        augment=("white_noise", "spec_augment"),
        method=(spec,),
        steps=5,
    )
    fit(run, tmp_path / "whole", device="cpu")
    fit_in_parts(run, tmp_path / "parts")
    assert_same_files(tmp_path / "whole", tmp_path / "parts")


class OwnRate(Method, nn.Module):
    """Has a weight with a learning rate of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        return (self.shift - 1).square().expand(len(output.scores))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.shift], "lr": 0.5}]


def test_a_method_may_have_parameters_with_settings_of_their_own(run: Run, tmp_path: Path) -> None:
    run = replace(run, optimizer="sgd:lr=0.001", clip_norm=None, steps=1)
    fit_with(OwnRate, run, tmp_path / "out")
    state = load_file(tmp_path / "out/last/training/methods.safetensors")
    torch.testing.assert_close(state["0.shift"], torch.tensor(1.0))


def test_numbers_of_a_step_follow_from_the_seed_and_the_step() -> None:
    def numbers(method: Method, step: int) -> list[float]:
        return torch.rand(3, generator=method.generator(step)).tolist()

    one, other = Nothing(), Repeating()
    assert numbers(one, 4) == numbers(Nothing(), 4)
    assert numbers(one, 4) != numbers(one, 5)
    assert numbers(one, 4) != numbers(other, 4)
    one.run_seed = 1
    assert numbers(one, 4) != numbers(Nothing(), 4)


class Looking(Method):
    """Keeps the gradients that it sees."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        loss = again()
        self.seen.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        return loss

    def before_step(self, model: Model, step: int) -> None:
        self.seen.append([p.grad.clone() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_methods_see_gradients_without_the_scale_of_fp16(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_norm: float | None
) -> None:
    run = replace(run, precision="bf16-mixed", clip_norm=clip_norm, steps=1)
    plain, scaled = Looking(), Looking()
    fit_with(lambda: plain, run, tmp_path / "plain")

    def launch_with_scaler(*args: Any) -> Any:
        fabric = launch(*args)
        fabric.strategy.precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return fabric

    monkeypatch.setattr(loop, "launch", launch_with_scaler)
    fit_with(lambda: scaled, run, tmp_path / "scaled")
    for one, other in zip(plain.seen, scaled.seen, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(theirs, mine, rtol=1e-6, atol=1e-9)
    before = build(run.model, run.seed).state_dict()
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "scaled")
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-8)
    assert not torch.equal(one["head.linear.weight"], before["head.linear.weight"])


def test_what_is_no_method_is_named(run: Run, tmp_path: Path) -> None:
    class Duck:
        def start(self, model: Model, dataset: UtteranceDataset) -> None: ...

        def extra_loss(self, batch: Batch, output: Output) -> Tensor:
            return torch.zeros(len(output.scores))

    message = r"type Duck, which is no speechkit\.train\.Method; derive its class from that"
    with offered(Duck):
        for go in (lambda: fit(run, tmp_path / "out", device="cpu"), lambda: dry_run(run)):
            with pytest.raises(ComponentError, match=message):
                go()


class Misspelt(Method):
    """A call that is nearly one of a method's."""

    def gradient(self, again: Callable[[], float], model: Model, step: int) -> float:
        return again()


class Helped(Method):
    """Helpers of its own: one with a name of its own, one beside the call that it helps."""

    def after_step(self, model: Model, step: int, optimizer: torch.optim.Optimizer) -> None:
        self.after_steps(model)

    def after_steps(self, model: Model) -> None: ...

    def weights(self, model: Model) -> None: ...


def test_a_misspelt_call_is_named_and_a_helper_is_none(run: Run) -> None:
    message = r"^method acme/acme has gradient, which nothing calls; did you mean gradients\?"
    with offered(Misspelt), pytest.raises(ComponentError, match=message):
        dry_run(run)
    with offered(Helped):
        dry_run(run)


class Ungiving(Method):
    def gradients(self, again: Callable[[], float], model: Model, step: int) -> Any:
        again()


class Sevenfold(Method):
    def extra_loss(self, batch: Batch, output: Output, *features: Any) -> Tensor:
        return torch.zeros(7)


class Undefined(Method):
    def extra_loss(self, batch: Batch, output: Output, *features: Any) -> Tensor:
        return torch.full((len(output.scores),), torch.nan)


class Short(Method):
    def after_step(self, model: Model, step: int) -> None:  # type: ignore[override]
        ...


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (Ungiving, ": gradients returns None; return the loss that again() gave"),
        (Sevenfold, ": extra_loss returns an object of type Tensor [7]; return a tensor [3], a"),
        (Undefined, ": extra_loss returns NaN or infinity for a batch of "),
        (Short, ", after_step: TypeError: Short.after_step() takes 3 positional arguments but"),
    ],
)
def test_a_fault_of_a_method_names_it_and_the_call(
    run: Run, tmp_path: Path, factory: type[Method], message: str
) -> None:
    match = rf"^method acme/acme{re.escape(message)}"
    with pytest.raises(SpeechkitError, match=match) as caught:
        fit_with(factory, run, tmp_path / "out")
    assert len(str(caught.value)) < 450
    # two utterances instead of three
    match = match.replace("a\\ tensor\\ \\[3", "a\\ tensor\\ \\[2")
    with offered(factory), pytest.raises(SpeechkitError, match=match):
        dry_run(run)


def test_an_error_of_the_model_is_not_the_methods(run: Run, tmp_path: Path) -> None:
    def broken(*_: Any) -> Output:
        raise ValueError("a layer's")

    class Around(Method):
        def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
            model.score = broken  # type: ignore[method-assign]
            return again()

    with pytest.raises(ValueError, match=r"^a layer's$"):
        fit_with(Around, run, tmp_path / "out")


@pytest.mark.parametrize("method", [Repeating, Pruning])
def test_fsdp_does_not_take_methods_that_work_on_whole_weights(
    run: Run, method: type[Method]
) -> None:
    spread = replace(run, devices=2, strategy="fsdp")
    with offered(method), pytest.raises(TrainingError, match=r"but strategy=fsdp .*strategy=ddp"):
        dry_run(spread)


def test_a_dry_run_starts_methods_and_prepares_nothing(run: Run) -> None:
    recorder = Recorder()
    with offered(lambda: recorder):
        dry_run(run)
    assert recorder.calls == [("start", 8, 0)]


class Broken(Method):
    """Fits no model."""

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        raise TrainingError("method acme: no layer of its kind")


def test_a_dry_run_shows_what_a_method_cannot_do(run: Run) -> None:
    with offered(Broken), pytest.raises(TrainingError, match="no layer of its kind"):
        dry_run(run)


def test_extra_losses_are_added_to_each_utterance(run: Run, tmp_path: Path) -> None:
    fit_with(OwnRate, replace(run, steps=1), tmp_path / "out")
    rows = [json.loads(x) for x in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    fit(replace(run, method=(), steps=1), tmp_path / "plain", device="cpu")
    plain = [json.loads(x) for x in (tmp_path / "plain/metrics.jsonl").read_text().splitlines()]
    # (0 - 1)² for each utterance
    assert rows[0]["loss"] == pytest.approx(plain[0]["loss"] + 1, rel=1e-6)
