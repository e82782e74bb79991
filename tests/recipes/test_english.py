"""The English recipe's student says what its teacher says, as far as it may look ahead."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import speechkit as sk
from speechkit.models import Model

RECIPE = Path(__file__).parents[2] / "recipes" / "english"


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    for name in ("run", "student"):
        sys.modules.pop(name, None)
    return importlib.import_module("student")


def config(kernel: int, lookahead: int) -> sk.QuartzNet:
    blocks = (
        sk.Block(channels=16, kernel=kernel, stride=2),
        sk.Block(channels=16, kernel=kernel, repeat=2, residual=True),
        sk.Block(channels=16, kernel=kernel, dilation=2),
        sk.Block(channels=32, kernel=1, separable=False),
    )
    look = (lookahead, lookahead, 2 * lookahead, 0)
    return sk.QuartzNet(blocks=blocks, lookahead=look, frontend="log_mel:normalize=running")


@pytest.fixture
def teacher() -> Model:
    model = sk.build(replace(config(kernel=9, lookahead=4), norm="none"), seed=1).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.uniform_(-0.5, 0.5)
    return model


@pytest.fixture
def audio() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, generator=generator) / 10 for n in (16000, 24000, 9999)]


def distance(teacher: Model, model: Model, audio: list[Tensor]) -> float:
    with torch.inference_mode():
        errors = [teacher(x[None]).scores - model(x[None]).scores for x in audio]
    return torch.cat([error.flatten() for error in errors]).square().mean().item()


def test_one_that_may_look_as_far_is_the_teacher(
    student: ModuleType, teacher: Model, audio: list[Tensor]
) -> None:
    model = student.fit(config(kernel=9, lookahead=4), teacher, audio)
    assert any("running_mean" in name for name in model.state_dict())
    assert distance(teacher, model, audio) < 1e-4


def test_one_that_may_not_comes_nearer_than_cutting_brings_it(
    student: ModuleType, teacher: Model, audio: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = config(kernel=6, lookahead=1)
    fitted = distance(teacher, student.fit(cut, teacher, audio), audio)
    # a price that forbids all change leaves the teacher's weights with taps cut off
    monkeypatch.setattr(student, "RIDGE", 1e12)
    assert fitted < distance(teacher, student.fit(cut, teacher, audio), audio) / 3
