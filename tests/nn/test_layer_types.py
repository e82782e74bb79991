"""Nobody decides by the type of a layer but `speechkit.nn` and the files of the layers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

import speechkit
from speechkit import nn as layers

ROOT = Path(speechkit.__file__).parent
CONTRACT = {"StreamLayer", "Windowed", "Recurrent", "Serial", "FrameWise", "ClipHead"}
"""What layers are made from; a plugin's subclass of them is one of them."""
TYPES = {
    name
    for name in layers.__all__
    if isinstance(kind := getattr(layers, name), type) and issubclass(kind, nn.Module)
} - CONTRACT


def decided_by(source: str) -> Iterator[str]:
    """The types of layers by which code decides what to do: isinstance, type(x) is, tables."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "isinstance",
            "issubclass",
        ):
            yield from named(*node.args[1:])
        if isinstance(node, ast.Compare) and "type(" in ast.unparse(node.left):
            yield from named(*node.comparators)
        if isinstance(node, ast.Dict):
            yield from named(*(key for key in node.keys if key is not None))
        if isinstance(node, ast.MatchClass):
            yield from named(node.cls)


def named(*nodes: ast.AST) -> Iterator[str]:
    for node in nodes:
        for part in ast.walk(node):
            name = getattr(part, "id", getattr(part, "attr", ""))
            if name in TYPES:
                yield name


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(layer, Pointwise | Conv)",
        "isinstance(layer, nn.Residual)",
        "type(layer) is SeparableConv",
        "type(layer.merge) in (Add, Bias)",
        "{Delay: plan_delay}",
        "match layer:\n    case BatchNorm():\n        pass",
    ],
)
def test_a_decision_by_type_is_found(source: str) -> None:
    assert list(decided_by(source))


def test_no_other_module_decides_by_the_type_of_a_layer() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in ROOT.rglob("*.py")
        if path.parent != ROOT / "nn"
        for name in decided_by(path.read_text(encoding="utf-8"))
    }
    assert not found, f"give the layer a method instead: {', '.join(sorted(found))}"
