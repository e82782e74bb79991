"""An activation takes the places of others one by one, with healing in between."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from speechkit_compression import swap_activation
from speechkit_compression.healing import heal
from speechkit_compression.likeness import likeness
from speechkit_compression.relu_surgery import activations

import speechkit as sk
from speechkit.data import read_manifest
from speechkit.errors import ConfigError
from speechkit.export import export
from speechkit.models import Net
from speechkit.probes import Examples
from speechkit.transforms import transform

Corpus = Callable[..., Path]


@pytest.fixture
def net(net: Net) -> Net:
    """A tiny net of GELU for each task in turn."""
    return replace(net, activation="gelu")


def swap(model: sk.Model, manifest: Path, params: str = "") -> tuple[sk.Model, dict[str, Any]]:
    examples = Examples(model, manifest, batch_size=3)
    made, (applied,) = transform(model, [f"swap_activation:{params}".rstrip(":")], examples)
    return made, applied.report


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The places with ReLU in each net that is healed."""
    seen: list[list[int]] = []

    def healed(student: sk.Model, *more: Any) -> list[float]:
        specs = [str(each.spec) for each in activations(student.config, "x")]
        seen.append([place for place, spec in enumerate(specs) if spec == "relu"])
        return heal(student, *more)

    monkeypatch.setattr(swap_activation, "heal", healed)
    return seen


def test_paper_050_stage_k_has_k_swapped(
    model: sk.Model, corpus: Corpus, stages: list[list[int]]
) -> None:
    made, report = swap(model, corpus(1), "steps=0")
    count = len(activations(model.config, "x"))
    assert stages == [list(range(count - k, count)) for k in range(1, count + 1)]
    assert str(made.config.activation) == "relu"
    assert all(block.activation is None for block in made.config.blocks)
    assert [stage["swapped"] for stage in report["stages"]][-1] == ["row 0 sub-block 0"]
    assert (report["before"], report["after"]) == (["gelu"], "relu")


@pytest.mark.parametrize("net", ["clip"], indirect=True)
def test_paper_050_the_order_is_chosen(
    model: sk.Model, corpus: Corpus, stages: list[list[int]]
) -> None:
    count = len(activations(model.config, "x"))
    swap(model, corpus(2), "steps=0,order=first_to_last")
    assert stages == [list(range(k)) for k in range(1, count + 1)]
    stages.clear()
    swap(model, corpus(2), "steps=0,order=all")
    assert stages == [list(range(count))]


@pytest.mark.parametrize("net", ["clip"], indirect=True)
def test_paper_050_the_original_is_the_teacher_of_every_stage(
    model: sk.Model, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = corpus(3)
    before = _copied(model)
    teachers: list[sk.Model] = []
    healed: list[dict[str, torch.Tensor]] = []

    def watched(student: sk.Model, teacher: sk.Model, *more: Any) -> list[float]:
        if healed:
            assert _equal(student, healed[-1]), "a stage begins with the weights of the one before"
        losses = heal(student, teacher, *more)
        teachers.append(teacher)
        healed.append(_copied(student))
        return losses

    monkeypatch.setattr(swap_activation, "heal", watched)
    made, report = swap(model, manifest, "steps=2")
    assert all(teacher is model for teacher in teachers)
    assert _equal(model, before)
    assert _equal(made, healed[-1])
    found = likeness(made, model, Examples(model, manifest, batch_size=3)).divergence
    assert report["stages"][-1]["divergence"] == pytest.approx(found)


def test_without_steps_the_weights_are_those_of_the_original(
    model: sk.Model, corpus: Corpus
) -> None:
    made, report = swap(model, corpus(2), "steps=0")
    assert _equal(made, _copied(model))
    assert report["stages"][0]["first_loss"] is None


@pytest.mark.slow
@pytest.mark.parametrize("net", ["clip"], indirect=True)
def test_paper_050_the_exports_have_no_erf(model: sk.Model, corpus: Corpus, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    manifest = corpus(3)
    made, _ = swap(model, manifest, "steps=1")

    def operators(net: sk.Model, form: str) -> set[str]:
        path = tmp_path / "net.onnx"
        export(net, path, f"onnx:features=false{form}", read_manifest(manifest))
        return {node.op_type for node in onnx.load(path).graph.node}

    # newer opsets have an operator of its own in place of Erf
    smooth = {"Erf", "Gelu"}
    assert operators(model, "") & smooth
    assert not operators(made, "") & smooth
    quantized = operators(made, ",int8=true")
    assert "QuantizeLinear" in quantized
    assert not quantized & smooth


@pytest.mark.parametrize("net", ["clip"], indirect=True)
def test_what_cannot_be_swapped_is_one_line(model: sk.Model, corpus: Corpus) -> None:
    manifest = corpus(2)
    with pytest.raises(ConfigError, match="swap_activation: every activation is gelu already"):
        swap(model, manifest, "to=gelu")
    with pytest.raises(ConfigError, match="order=best; give one of last_to_first, first_to_last"):
        swap(model, manifest, "order=best")
    with pytest.raises(ConfigError, match="steps=-1; give at least 0"):
        swap(model, manifest, "steps=-1")
    with pytest.raises(ConfigError, match="swap_activation needs recordings; give --manifest M"):
        transform(model, ["swap_activation"])


def _copied(model: sk.Model) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def _equal(model: sk.Model, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())
