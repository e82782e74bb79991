"""Two plugins that offer components of the same names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from speechkit.builtin.factories import clip_head
from speechkit.checkpoint import load, save
from speechkit.component import Component, Spec
from speechkit.errors import ComponentError
from speechkit.hookspecs import hookimpl
from speechkit.models import MatchboxNet, Net, build
from speechkit.plugins import Registry, using
from speechkit.tasks import task_of
from speechkit.tasks.clip import Classification
from speechkit.train import Data, Run, dry_run

Corpus = Callable[..., Path]


def plugin() -> SimpleNamespace:
    """A head, its task, the task's loss and a class of configs, with the same names each time."""

    class Task(Classification):
        loss = "words_loss"

    @dataclass(frozen=True, kw_only=True)
    class Config(MatchboxNet):
        kind: str = "named"

    def loss() -> Any:
        return lambda scores, *_: scores.square().sum(1)

    def one(name: str, factory: Any, **more: Any) -> Any:
        listed = [Component(name=name, factory=factory, summary="ours", **more)]
        return hookimpl(lambda: listed)

    return SimpleNamespace(
        speechkit_heads=one("words", clip_head, task="words_task"),
        speechkit_tasks=one("words_task", Task),
        speechkit_losses=one("words_loss", loss),
        speechkit_nets=one("named", Config),
    )


@pytest.fixture
def registry() -> Iterator[Registry]:
    """The plugin `lab`; a test adds `other`."""
    made = Registry({"SPEECHKIT_PLUGINS": ""})
    made.add(plugin(), "lab")
    with using(made):
        yield made


@pytest.fixture
def config(nets: dict[str, Net], registry: Registry) -> Net:
    kind = registry.find("net", "lab/named").factory()
    net = nets["clip"]
    made: Net = kind(labels=net.labels, blocks=net.blocks, frontend=net.frontend, head="words")
    return made


def test_a_head_and_a_task_name_components_of_their_own_plugin(
    config: Net, registry: Registry, corpus: Corpus
) -> None:
    registry.add(plugin(), "other")
    run = Run(
        model=replace(config, head="lab/words"),
        data=Data(train=corpus(4), dev=corpus(2, "dev"), batch_size=2),
        steps=1,
    )
    assert dry_run(run)["train"] == 4
    task = task_of(build(run.model))
    assert type(task) is registry.find("task", "lab/words_task").factory()
    assert str(task.loss) == "lab/words_loss"


def test_a_stored_model_has_the_components_of_the_plugin_that_made_it(
    config: Net, registry: Registry, tmp_path: Path
) -> None:
    model = build(config)
    save(model, tmp_path / "model")
    registry.add(plugin(), "other")
    loaded = load(tmp_path / "model")
    assert type(loaded.config) is type(config)
    assert loaded.config == replace(config, head="lab/words")
    assert type(task_of(loaded)) is registry.find("task", "lab/words_task").factory()
    save(loaded, tmp_path / "again")
    assert load(tmp_path / "again").config == loaded.config


def test_what_a_user_names_is_still_ambiguous(config: Net, registry: Registry) -> None:
    registry.add(plugin(), "other")
    with pytest.raises(ComponentError, match=r"write one of lab/words, other/words$"):
        build(config)


def test_a_short_name_of_the_core_stays_the_cores(config: Net, registry: Registry) -> None:
    assert registry.qualified("head", "clip:pool=average", ["lab"]) == Spec(
        "clip", {"pool": "average"}
    )
    assert config.qualified(["lab"]) == config
