"""Nobody decides by the type of a layer but its own file: others ask the layer."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

import speechkit
from speechkit import nn as layers

ROOT = Path(speechkit.__file__).parent
CONTRACT = {"StreamLayer", "Windowed", "Recurrent", "ClipHead"}
"""What a plugin's layer may be."""
COMPOSE = {"Serial", "Residual", "FrameWise", "FusedSerial"}
"""What other layers lie in."""
FUSED = {"Affine"}
"""What a norm's `fuse()` gives."""
TYPES = (
    {
        name
        for name in layers.__all__
        if isinstance(kind := getattr(layers, name), type) and issubclass(kind, nn.Module)
    }
    - CONTRACT
    - COMPOSE
    - FUSED
)


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
            of_torch = isinstance(part, ast.Attribute) and hasattr(nn, name)
            if name in TYPES and not of_torch:
                yield name


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(layer, Pointwise | Conv)",
        "isinstance(layer, nn.Conv)",
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
        for name in decided_by(path.read_text(encoding="utf-8"))
        if path != Path(inspect.getfile(getattr(layers, name)))
    }
    # the one norm that another stands in for where several processes train
    found -= {"nn/sync_batch_norm.py: BatchNorm"}
    assert not found, f"give the layer a method instead: {', '.join(sorted(found))}"
