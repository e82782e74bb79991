"""Transforms in a row, and what they must leave alone and return."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from speechkit.component import Component
from speechkit.errors import ComponentError, ConfigError
from speechkit.hookspecs import hookimpl
from speechkit.models import Model, Net, build, prepare
from speechkit.plugins import Registry, using
from speechkit.probes import Examples
from speechkit.testing.checks.pure import generators, same
from speechkit.transforms import required, transform


def widen(labels: int = 1) -> Callable[..., tuple[Model, dict[str, Any]]]:
    """More labels, whose weights are new."""

    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        more = tuple(f"more{i}" for i in range(labels))
        made = build(replace(model.config, labels=(*model.labels, *more)))
        own = made.state_dict()
        known = {k: x for k, x in model.state_dict().items() if x.shape == own[k].shape}
        made.load_state_dict(known, strict=False)
        return made.train(), {"labels": len(made.labels), "drawn": torch.rand(()).item()}

    return apply


def measured() -> Callable[..., tuple[Model, dict[str, Any]]]:
    """The same model, and how many features it has in the recordings."""

    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        given = required(examples, "measured")
        assert given.model is model
        for batch in given.batches:
            model(batch.audio, batch.lengths)
        return model, {"frames": sum(int(c.lengths.sum()) for _, c in given)}

    return apply


def in_place() -> Callable[..., tuple[Model, dict[str, Any]]]:
    """Doubles the weights that it is given."""

    @torch.no_grad()
    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        for weight in model.parameters():
            weight.mul_(2)
        return model, {}

    return apply


def broken() -> Callable[..., tuple[Model, dict[str, Any]]]:
    """A fault of its author's."""

    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        raise IndexError("no block 7")

    return apply


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    listed = [
        Component(name="widen", factory=widen, summary="More labels"),
        Component(name="measured", factory=measured, summary="Looks"),
        Component(name="in_place", factory=in_place, summary="Changes the model"),
        Component(name="new", factory=lambda: lambda m, e: (build(m.config), {}), summary="New"),
        Component(name="alone", factory=lambda: lambda m, e: m, summary="No report"),
        Component(name="broken", factory=broken, summary="Raises"),
        Component(name="no_model", factory=lambda: lambda m, e: (m.head, {}), summary="A head"),
        Component(name="prepared", factory=lambda: lambda m, e: (prepare(m), {}), summary="Fused"),
    ]
    registry = Registry({"SPEECHKIT_PLUGINS": ""})
    registry.add(SimpleNamespace(speechkit_transforms=hookimpl(lambda: listed)), "ours", "2.1")
    with using(registry):
        yield


def test_transforms_are_applied_in_order_and_report(
    nets: dict[str, Net], corpus: Callable[..., Path]
) -> None:
    model = build(nets["clip"]).train()
    before, drawn = {k: x.clone() for k, x in model.state_dict().items()}, generators()
    examples = Examples(model, corpus(2), seed=3)
    made, applied = transform(model, ["widen:labels=2", "ours/measured"], examples)
    assert same(before, dict(model.state_dict()))
    assert same(generators(), drawn)
    assert model.training
    assert not made.training
    assert len(made.labels) == 4
    assert [one.name for one in applied] == ["ours/widen:labels=2", "ours/measured"]
    assert {one.version for one in applied} == {"2.1"}
    assert applied[0].report["labels"] == 4
    assert applied[1].report["frames"] > 0
    again, repeated = transform(model, ["widen:labels=2", "measured"], examples)
    assert repeated == applied
    assert same(dict(made.state_dict()), dict(again.state_dict()))


def test_a_transform_gets_the_model_in_evaluation(
    nets: dict[str, Net], corpus: Callable[..., Path]
) -> None:
    model = build(nets["clip"]).train()
    before = {k: x.clone() for k, x in model.state_dict().items()}
    transform(model, ["measured"], Examples(model, corpus(2)))
    assert model.training
    assert same(before, dict(model.state_dict()))


def test_what_is_no_transform_is_an_error(nets: dict[str, Net]) -> None:
    model = build(nets["clip"])
    for name in ("no_model", "prepared"):
        with pytest.raises(
            ComponentError, match=f"transform ours/{name} returns no model that can be"
        ):
            transform(model, [name])
    with pytest.raises(ComponentError, match=r"no transform named 'widn'\. Did you mean 'widen'"):
        transform(model, ["widn"])
    with pytest.raises(ConfigError, match="measured needs recordings; give --manifest M"):
        transform(model, ["measured"])
    with pytest.raises(ConfigError, match="transform the one it was made of"):
        transform(prepare(model), ["widen"])
    with pytest.raises(
        ComponentError, match=r"^transform ours/alone returns .* type Model; return"
    ):
        transform(model, ["alone"])
    with pytest.raises(ComponentError, match=r"^transform ours/broken: IndexError: no block 7;"):
        transform(model, ["broken"])


def test_a_transform_changes_a_copy(nets: dict[str, Net]) -> None:
    message = r"^transform ours/in_place changes the model that it is given; change copy\.deepcopy"
    with pytest.raises(ComponentError, match=message):
        transform(build(nets["clip"]), ["in_place"])


def test_a_model_without_the_trained_weights_is_warned_of(
    nets: dict[str, Net], caplog: pytest.LogCaptureFixture
) -> None:
    trained = build(nets["clip"], seed=1)
    transform(trained, ["widen"])
    transform(build(nets["clip"]), ["new"])
    assert not caplog.messages
    transform(trained, ["new"])
    assert caplog.messages == [
        "transform ours/new returns an untrained model: all of its weights are new"
    ]
