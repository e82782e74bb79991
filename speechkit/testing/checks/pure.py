"""A layer's forward only computes: it changes nothing, draws nothing and remembers nothing."""

import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechkit.nn import Chunk, StreamLayer
from speechkit.plugins import Entry
from speechkit.testing.specimen import used

# what nn.Module keeps for itself; parameters and buffers are compared by value
MODULES_OWN = frozenset(vars(StreamLayer())) | {"training"}


def check_input_not_modified(entry: Entry) -> None:
    """Its input and, in evaluation, its parameters and buffers are as they were."""
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
    """In evaluation it draws nothing; in training from torch's generator, which a run seeds."""
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


def check_thread_safe(entry: Entry) -> None:
    """In evaluation it keeps nothing of one input on itself, so threads may share it."""
    for specimen in used(entry):
        layer, inputs = specimen.layer, [specimen.input(1, seed=seed) for seed in range(4)]
        expected = [_run(layer, x) for x in inputs]
        before = _attributes(layer)
        _run(layer, inputs[0])
        for name, value in _attributes(layer).items():
            kept = name in before and same(before[name], value)
            assert kept, f"{specimen} writes its attribute {name} in forward"
        with _restless_threads(), ThreadPoolExecutor(len(inputs)) as pool:
            for _ in range(3):
                for want, got in zip(expected, pool.map(_run, [layer] * 4, inputs), strict=True):
                    assert torch.equal(want, got), f"{specimen} differs when four threads run it"


def _run(layer: StreamLayer, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = layer(Chunk.of(x)).masked
    return y


def generators() -> dict[str, Any]:
    """The state of each generator that a process has one of."""
    words: Any = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "numpy": (*words[1].tolist(), words[2]),
        "random": random.getstate(),
    }


def _attributes(layer: StreamLayer) -> dict[str, Any]:
    """Each attribute of each submodule that nn.Module does not keep for itself."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if name not in MODULES_OWN
    }


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, tensors bit by bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or bool(one == other)


@contextmanager
def _restless_threads() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
