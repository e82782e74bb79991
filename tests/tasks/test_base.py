"""The base class of tasks, how a model comes by its task, and configs of a plugin's own."""

import json
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from speechkit.checkpoint import load, save
from speechkit.component import Component
from speechkit.config import override
from speechkit.data import Utterance, read_audio
from speechkit.errors import ComponentError, ConfigError, PluginError, TrainingError
from speechkit.hookspecs import hookimpl
from speechkit.infer import transcribe
from speechkit.models import MatchboxNet, Net, Output, build
from speechkit.models.net import Name
from speechkit.nn import Chunk, ClipHead, Pointwise
from speechkit.plugins import Registry, registry, using
from speechkit.report import judge
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing
from speechkit.streaming import stream
from speechkit.tasks import Task, task_of
from speechkit.tasks.clip import Classification
from speechkit.tasks.ctc import Recognition
from speechkit.tasks.evaluation import evaluate
from speechkit.tasks.frame import Detection
from speechkit.train import Data, Method, Run, dry_run, fit


class Duration(Task):
    """The duration of an utterance, a number."""

    verb = "time"

    def encode(self, utterance: Utterance) -> torch.Tensor:
        return torch.tensor(utterance.duration_s)

    def predictions(self, output: Output) -> list[float]:
        return output.scores[:, 0].tolist()

    def metrics(self, references: Any, predictions: Any) -> dict[str, float]:
        pairs = zip(references, predictions, strict=True)
        return {"largest_error": max(abs(r - p) for r, p in pairs)}


class First(ClipHead):
    """Scores of an utterance's first frame; made with the labels themselves."""

    def __init__(self, channels: int, labels: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names, self.linear = names, Pointwise(channels, labels, bias=True)

    def channels_out(self, c_in: int) -> int:
        return self.linear.channels_out(c_in)

    def forward(self, c: Chunk) -> Chunk:
        y: Chunk = self.linear(Chunk(c.x[:, :, :1], c.valid[:, :1]))
        return y


@dataclass(frozen=True, kw_only=True)
class OwnNet(MatchboxNet):
    """A family of a plugin's own, with a field that no other has."""

    kind: Any = "own_net"
    head: Name = "first"
    colours: tuple[str, ...] = ("red",)
    spotting: Spotting = field(default_factory=lambda: Spotting(window_s=0.5))


def component(name: str, factory: Any, **fields: Any) -> Component:
    return Component(name=name, factory=factory, summary="one of ours", **fields)


@pytest.fixture
def plugin() -> Iterator[Registry]:
    """A plugin with the classes above, in the process's registry."""
    loaded = Registry({"SPEECHKIT_PLUGINS": ""})
    heads = [
        component("first", First, task="duration", time="utterance"),
        component("idle", lambda channels, labels: Pointwise(channels, labels)),
        component("wrong", lambda channels, labels: Pointwise(channels, labels), task="no_task"),
    ]
    tasks = [component("duration", Duration), component("no_task", lambda model: "task")]
    own = SimpleNamespace(
        speechkit_heads=hookimpl(lambda: heads),
        speechkit_tasks=hookimpl(lambda: tasks),
        speechkit_nets=hookimpl(lambda: [component("own_net", OwnNet)]),
    )
    loaded.add(own, "acme", "1.2", distribution="acme-nets")
    with using(loaded):
        yield loaded


def own_net(nets: dict[str, Net], **fields: Any) -> OwnNet:
    return OwnNet(
        labels=("low", "high"), blocks=nets["clip"].blocks, frontend=nets["clip"].frontend, **fields
    )


@pytest.mark.parametrize(
    ("family", "head", "kind"),
    [
        ("ctc", "clip", Classification),
        ("ctc", "frame", Detection),
        ("clip", "ctc", Recognition),
        ("frame", "clip", Classification),
    ],
)
def test_the_head_decides_the_task_of_any_family(
    nets: dict[str, Net], family: str, head: str, kind: type, corpus: Callable[..., Path]
) -> None:
    labels = ("low", "high") if head != "ctc" else tuple(" hilo")
    model = build(replace(nets[family], head=head, labels=labels)).eval()
    task = task_of(model)
    assert type(task) is kind
    manifest = corpus(3)
    figures = evaluate(model, manifest)
    assert judge(model, manifest).figures["n"] == figures["n"] == 3
    session = stream(model, vad=None)
    sound = read_audio(manifest.with_name("train0.wav"))
    for event in [*session.feed(sound), *session.finish()]:
        assert event.at_s <= event.decided_s
    task.predict(model, sound, 16000)


def test_a_task_has_defaults(
    nets: dict[str, Net], plugin: Registry, corpus: Callable[..., Path]
) -> None:
    model = build(own_net(nets)).eval()
    task, manifest = task_of(model), corpus(3)
    assert isinstance(task, Duration)
    assert task.error({"n": 3, "a": 0.5, "b": 0.1}) == 0.5
    assert (task.window_s, task.block_s) == (None, 0.08)
    assert task.caption(torch.zeros(2)) == ""
    figures = evaluate(model, manifest)
    assert list(figures) == ["n", "largest_error"]
    report = judge(model, manifest)
    assert (report.figures, report.sections()) == (figures, [])
    sound = read_audio(manifest.with_name("train0.wav"))
    expected = model(sound[None]).scores[0, 0].item()
    assert task.predict(model, sound, 16000) == pytest.approx(expected)
    with pytest.raises(
        ConfigError, match=r"own_net has no events in a stream; use `speechkit time`"
    ):
        stream(model, window_s=1.0)
    with pytest.raises(ConfigError, match=r"this own_net cannot transcribe; use `speechkit time`"):
        transcribe(model, sound, 16000)


def test_a_task_is_light_enough_to_be_sent_to_a_process(net: Net) -> None:
    task = task_of(build(net))
    assert len(pickle.dumps(task.encode)) < 10_000


def test_a_head_is_given_the_labels_where_it_asks(nets: dict[str, Net], plugin: Registry) -> None:
    assert build(own_net(nets)).head.names == ("low", "high")


@pytest.mark.parametrize(
    ("head", "error", "says"),
    [
        ("idle", ConfigError, "head idle serves no task; its Component must name one"),
        (
            "wrong",
            ComponentError,
            "task acme/no_task makes an object of type str, which is no speechkit",
        ),
    ],
)
def test_a_head_without_a_task_is_named(
    nets: dict[str, Net], plugin: Registry, head: str, error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        task_of(build(own_net(nets, head=head)))


def test_a_config_of_a_plugins_own_is_saved_loaded_and_overridden(
    nets: dict[str, Net], plugin: Registry, tmp_path: Path
) -> None:
    model = build(own_net(nets, colours=("red", "blue")))
    save(model, tmp_path / "own")
    stored = json.loads((tmp_path / "own/config.json").read_text())
    assert stored["plugins"] == {"acme": {"version": "1.2", "distribution": "acme-nets"}}
    assert load(tmp_path / "own").config == model.config
    run = Run(model=model.config, data=Data(train=Path("a"), dev=Path("b")), steps=1)
    assert override(run, ['model.colours=["green"]']).model == replace(
        model.config, colours=("green",)
    )
    missing = "was made with plugin 'acme' 1.2 of acme-nets, which is not installed"
    with using(Registry({"SPEECHKIT_PLUGINS": ""})), pytest.raises(PluginError, match=missing):
        load(tmp_path / "own")


def test_a_rule_is_the_configs_own_or_the_default(nets: dict[str, Net]) -> None:
    post = PostProcessing(onset=0.9, offset=0.8)
    assert replace(nets["frame"], postprocess=post).rule(PostProcessing) is post
    assert nets["ctc"].rule(PostProcessing) == PostProcessing()


class Towards(Method):
    """A loss of a method's own: (score − 1)²."""

    def extra_loss(self, batch: Any, output: Output) -> torch.Tensor:
        return (output.scores - 1).square().flatten(1).mean(1)


def test_without_a_loss_methods_alone_train(
    nets: dict[str, Net], corpus: Callable[..., Path], tmp_path: Path
) -> None:
    with using(Registry({"SPEECHKIT_PLUGINS": ""})):
        own = SimpleNamespace(speechkit_methods=hookimpl(lambda: [component("towards", Towards)]))
        registry().add(own, "acme")
        manifest = corpus(4)
        run = Run(
            model=nets["clip"],
            data=Data(train=manifest, dev=manifest, batch_size=2),
            loss="none",
            method=("towards",),
            optimizer="sgd:lr=0.1",
            steps=2,
        )
        fit(run, tmp_path / "out", device="cpu")
        with pytest.raises(TrainingError, match=r"^nothing to learn from: the loss is none; set"):
            dry_run(replace(run, method=()))
        before, after = build(run.model, run.seed), load(tmp_path / "out/last")
    for name, value in before.named_parameters():
        assert not torch.equal(value, after.get_parameter(name)), name


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"metricss": Duration.metrics},
            "has metricss, which nothing calls; did you mean metrics?",
        ),
        ({"los": "mse"}, "has los, which nothing calls; did you mean loss?"),
        ({}, "has no metrics; define it"),
    ],
)
def test_a_misspelt_or_missing_member_of_a_task_is_named(
    nets: dict[str, Net], members: dict[str, Any], message: str
) -> None:
    calls = {"encode": Duration.encode, "predictions": Duration.predictions}
    with (
        serving(type("Other", (Task,), {**calls, **members})),
        pytest.raises(ComponentError, match=rf"^task acme/other {re.escape(message)}"),
    ):
        task_of(build(replace(nets["clip"], head="first")))


@contextmanager
def serving(task: type[Task]) -> Iterator[None]:
    """A head `first` whose task `other` is of this class."""
    with using(Registry({"SPEECHKIT_PLUGINS": ""})):
        plugin = SimpleNamespace(
            speechkit_tasks=hookimpl(lambda: [component("other", task)]),
            speechkit_heads=hookimpl(lambda: [component("first", First, task="other")]),
        )
        registry().add(plugin, "acme")
        yield


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"predictions": lambda *_: 3}, ", predictions: TypeError: 'int' object is not iterable; "),
        ({"predictions": lambda *_: [3]}, " has 2 references and 1 predictions; return one"),
        ({"metrics": lambda *_: {}}, ": metrics returns {}; return numbers by name"),
    ],
)
def test_a_fault_of_a_task_names_it_and_the_call(
    nets: dict[str, Net], corpus: Callable[..., Path], members: dict[str, Any], message: str
) -> None:
    manifest = corpus(2)
    with serving(type("Other", (Duration,), members)):
        model = build(replace(nets["clip"], head="first"))
        with pytest.raises(ComponentError, match=rf"^task acme/other{re.escape(message)}"):
            evaluate(model, manifest)
