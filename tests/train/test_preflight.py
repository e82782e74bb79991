"""What a run is made of is looked at before its first step, in a dry run too."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from speechkit.component import Component
from speechkit.errors import ComponentError, SpeechkitError
from speechkit.hookspecs import hookimpl
from speechkit.plugins import registry
from speechkit.train import Data, Run, dry_run, fit


@pytest.fixture
def run(nets: dict[str, Any], corpus: Callable[..., Path]) -> Run:
    data = Data(train=corpus(8, "train"), dev=corpus(4, "dev"), batch_size=3)
    return Run(model=nets["clip"], data=data, steps=2, optimizer="adamw:lr=0.01")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": "ctc"},
            r"loss ctc of a matchboxnet's scores \[2, 2\].*; task clip expects loss=cross_entropy$",
        ),
        ({"loss": "frame_cross_entropy"}, "loss frame_cross_entropy of a matchboxnet's scores"),
        ({"loss": "cross_entropy:smoothing=much"}, "loss cross_entropy:smoothing=much: "),
        ({"optimizer": "adamw:lr=fast"}, "optimizer adamw:lr=fast: "),
        ({"schedule": "cosine:warmup=long"}, "schedule cosine:warmup=long: "),
        ({"method": ("phones",)}, "method phones: no utterance has phones"),
        ({"method": ("distill:teacher=none,cache=c",)}, "none"),
        ({"method": ("phones:before=3",)}, r"unexpected keyword argument 'before'"),
    ],
)
def test_a_component_that_does_not_work_ends_a_run_in_a_line(
    run: Run, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = replace(run, **changes)
    for go in (lambda: fit(run, tmp_path / "out", device="cpu"), lambda: dry_run(run)):
        with pytest.raises(SpeechkitError, match=message) as caught:
            go()
        assert len(str(caught.value)) < 450
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "factory", "message"),
    [
        ("losses", lambda: lambda *_: torch.zeros(()), r"shape \[\], expected \[2\], a loss for"),
        ("schedules", lambda steps: lambda step: -1.0, "the factor of step 0 is -1; a finite"),
        ("schedules", lambda steps: lambda step: None, "TypeError"),
    ],
)
def test_a_component_that_returns_something_else_is_named(
    run: Run, kind: str, factory: Callable[..., Any], message: str
) -> None:
    plugin = ModuleType("acme")
    made = Component(name="odd", factory=factory, summary="Odd", formula="x")
    setattr(plugin, f"speechkit_{kind}", hookimpl(lambda: [made]))
    registry().add(plugin, "acme")
    name = {"losses": "loss", "schedules": "schedule"}[kind]
    changes: dict[str, Any] = {name: "odd"}
    try:
        with pytest.raises(ComponentError, match=message):
            dry_run(replace(run, **changes))
    finally:
        registry()._forget(plugin, "acme")
