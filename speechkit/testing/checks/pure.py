"""Checks that forward has no side effects: it changes, draws and stores nothing."""

import random
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import CellType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechkit.nn import Chunk, StreamLayer
from speechkit.plugins import Entry
from speechkit.testing.specimen import Specimen, used

# nn.Module's own attributes; parameters and buffers are compared by value
MODULES_OWN = frozenset(vars(StreamLayer())) | {"training"}
NOT_THE_PLUGINS = frozenset({"builtins", "numpy", "speechkit", "torch"})
"""Packages whose state does not belong to a plugin."""
KEPT = (bool, bytearray, deque, dict, float, int, list, np.ndarray, set, str, tuple, Tensor)
"""Types of globals and class attributes that can store an input."""


def check_input_not_modified(entry: Entry) -> None:
    """It does not change its input, nor in evaluation its parameters and buffers."""
    for specimen in used(entry):
        layer = specimen.layer
        for training in (True, False):
            layer.train(training)
            x, lengths = specimen.input(), torch.tensor([specimen.frames, specimen.frames // 2])
            c = Chunk.of(x, lengths)
            kept = x.clone(), c.valid.clone()
            weights = {name: value.clone() for name, value in layer.state_dict().items()}
            with torch.no_grad():
                layer(c)
            assert torch.equal(c.x, kept[0]), f"{specimen} writes into its input"
            assert torch.equal(c.valid, kept[1]), f"{specimen} writes into `valid`"
            for name, value in layer.state_dict().items() if not training else ():
                assert torch.equal(value, weights[name]), f"{specimen} changes {name} in evaluation"


def check_no_global_rng(entry: Entry) -> None:
    """It draws no random numbers in evaluation, and in training only from torch's generator."""
    for specimen in used(entry):
        for training in (True, False):
            specimen.layer.train(training)
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                before = generators()
                specimen.layer(Chunk.of(specimen.input()))
                after = generators()
            for name, state in after.items():
                allowed = training and name == "torch"
                assert allowed or same(state, before[name]), (
                    f"{specimen} draws from {name}'s global generator "
                    f"in {'training' if training else 'evaluation'}"
                )


def check_modes_change_no_weights(entry: Entry) -> None:
    """`train()` and `eval()` change no parameters and buffers."""
    for specimen in used(entry):
        layer, chance = specimen.layer, torch.Generator().manual_seed(0)
        for training in (True, False, True):
            before = _weights(layer)
            layer.train(training)
            for name, value in _weights(layer).items():
                kept = name in before and torch.equal(value, before[name])
                call = "train()" if training else "eval()"
                assert kept, f"{specimen}: {call} changes {name}"
            with torch.no_grad():
                for p in layer.parameters():
                    p.add_(torch.randn(p.shape, generator=chance, dtype=p.dtype))


def check_thread_safe(entry: Entry) -> None:
    """In evaluation it stores nothing of an input, so threads can share it."""
    for specimen in used(entry):
        layer, inputs = specimen.layer, [specimen.input(1, seed=seed) for seed in range(4)]
        expected = [_run(layer, x) for x in inputs]
        before = _kept(layer)
        _run(layer, inputs[0])
        if entry.component.time != "utterance":
            _first_step(specimen)
        for name, value in _kept(layer).items():
            kept = name in before and same(before[name], value)
            assert kept, f"{specimen} writes {name} in evaluation"
        with _restless_threads(), ThreadPoolExecutor(len(inputs)) as pool:
            for _ in range(3):
                for want, got in zip(expected, pool.map(_run, [layer] * 4, inputs), strict=True):
                    assert torch.equal(want, got), f"{specimen} differs when four threads run it"


def _run(layer: StreamLayer, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = layer(Chunk.of(x)).masked
    return y


def generators() -> dict[str, Any]:
    """The state of each global random generator of the process."""
    words: Any = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "numpy": (*words[1].tolist(), words[2]),
        "random": random.getstate(),
    }


def _first_step(specimen: Specimen) -> None:
    layer, x = specimen.layer, specimen.input(1)
    with torch.no_grad():
        layer.step(Chunk.of(x[:, :, : layer.stride]), layer.init_state(1, specimen.c_in, x.dtype))


def _weights(layer: StreamLayer) -> dict[str, Tensor]:
    """Copies of its parameters and buffers, including those that are not in the state dict."""
    named = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: value.detach().clone() for name, value in named}


def _kept(layer: StreamLayer) -> dict[str, Any]:
    """Copies of everything that could store an input: the attributes of each submodule, except
    nn.Module's own, and the globals, closures and class attributes of the plugin's code."""
    found: dict[str, Any] = {}
    functions: list[FunctionType] = []
    for path, module in layer.named_modules():
        own = {n: v for n, v in vars(module).items() if n not in MODULES_OWN}
        found |= {
            f"its attribute {path}.{n}" if path else f"its attribute {n}": own[n] for n in own
        }
        for cls in type(module).__mro__:
            if cls.__module__.partition(".")[0] in NOT_THE_PLUGINS:
                continue
            functions += [v for v in vars(cls).values() if isinstance(v, FunctionType)]
            found |= {f"{cls.__name__}.{n}": v for n, v in vars(cls).items() if isinstance(v, KEPT)}
        functions += [v for v in own.values() if isinstance(v, FunctionType)]
    for function in _called(functions):
        found |= {
            f"the global {name}": value
            for name, value in _names_of(function).items()
            if isinstance(value, KEPT)
        }
    return {name: _copied(value) for name, value in found.items()}


def _called(functions: list[FunctionType]) -> Iterator[FunctionType]:
    """The plugin's functions, and the functions of the plugin that they refer to."""
    seen: set[FunctionType] = set()
    while functions:
        function = functions.pop()
        if function in seen or function.__module__.partition(".")[0] in NOT_THE_PLUGINS:
            continue
        seen.add(function)
        functions += [v for v in _names_of(function).values() if isinstance(v, FunctionType)]
        yield function


def _names_of(function: FunctionType) -> dict[str, Any]:
    """The globals and closure variables that a function uses."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    # a cell is empty until the enclosing function assigns the variable
    closed = {name: cell.cell_contents for name, cell in cells if cell != CellType()}
    names = function.__code__.co_names
    return {n: function.__globals__[n] for n in names if n in function.__globals__} | closed


def _copied(value: Any) -> Any:
    """A deep copy of containers and tensors; other values are returned unchanged."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_copied(item) for item in value]
    return value.copy() if isinstance(value, set | np.ndarray | bytearray) else value


def same(one: Any, other: Any) -> bool:
    """True if two values are equal; tensors are compared bit by bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or bool(np.array_equal(one, other))


@contextmanager
def _restless_threads() -> Iterator[None]:
    """Makes Python switch between threads as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
