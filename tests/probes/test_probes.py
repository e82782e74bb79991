"""Probes leave everything as it was, whatever they do."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speechkit.component import Component
from speechkit.errors import ComponentError, ConfigError
from speechkit.hookspecs import hookimpl
from speechkit.models import Model, Net, build, prepare
from speechkit.plugins import Registry, using
from speechkit.probes import Examples, probe
from speechkit.testing.checks.pure import generators, same


def rude() -> Callable[[Model, Examples], dict[str, Tensor]]:
    """Trains, hooks and freezes the model, and draws from every global generator."""

    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        for batch, features in examples:
            examples.loss(model.train().score(features), batch).mean().backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        for module in model.modules():
            module.register_forward_hook(print)
        model.requires_grad_(False)
        drawn = [torch.rand(()).item(), np.random.rand(), random.random()]
        return {"drawn": torch.tensor(drawn, requires_grad=True)}

    return look


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    listed = [
        Component(name="listed", factory=lambda: lambda *_: [1], summary="Returns a list"),
        Component(name="broken", factory=lambda: lambda model: {}, summary="Takes too little"),
        Component(
            name="complex",
            factory=lambda: lambda *_: {"x": torch.zeros(2, dtype=torch.complex64)},
            summary="Returns complex numbers",
        ),
        Component(name="rude", factory=rude, summary="Changes everything"),
        Component(
            name="wordy", factory=lambda: lambda *_: {"name": "text"}, summary="Returns text"
        ),
    ]
    registry = Registry({"SPEECHKIT_PLUGINS": ""})
    registry.add(SimpleNamespace(speechkit_probes=hookimpl(lambda: listed)), "ours")
    with using(registry):
        yield


def state(model: Model) -> dict[str, Any]:
    return {
        "values": {k: v.clone() for k, v in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad is None for parameter in model.parameters()],
        "generators": generators(),
    }


def test_the_model_and_the_generators_come_out_as_they_went_in(
    net: Net, corpus: Callable[..., Path]
) -> None:
    model = build(net).train()
    model.head.eval()
    model.stem.requires_grad_(False)
    examples = Examples(model, corpus(3), seed=5)
    before = state(model)
    found = probe(model, ["rude", "ours/rude"], examples)
    assert same(state(model), before)
    assert list(found) == ["rude", "ours/rude"]
    drawn = found["rude"]["drawn"]
    assert not drawn.requires_grad
    assert torch.equal(drawn, found["ours/rude"]["drawn"]), "each begins at the seed"
    other = probe(model, ["rude"], Examples(model, corpus(3), seed=6))
    assert (drawn != other["rude"]["drawn"]).all()


def test_what_is_no_probe_is_an_error(nets: dict[str, Net], corpus: Callable[..., Path]) -> None:
    model = build(nets["clip"])
    examples = Examples(model, corpus(1))
    with pytest.raises(ComponentError, match=r"no probe named 'rud'\. Did you mean 'rude'"):
        probe(model, ["rud"], examples)
    with pytest.raises(ComponentError, match="probe ours/wordy: 'name' is str; a probe returns"):
        probe(model, ["wordy"], examples)
    with pytest.raises(ComponentError, match=r"^probe ours/complex: 'x' is torch\.complex64; a"):
        probe(model, ["complex"], examples)
    with pytest.raises(ComponentError, match=r"^probe ours/listed returns .* type list; return"):
        probe(model, ["listed"], examples)
    with pytest.raises(ComponentError, match=r"^probe ours/broken: TypeError: .* positional"):
        probe(model, ["broken"], examples)
    with pytest.raises(ConfigError, match="probe the one it was made of"):
        probe(prepare(model), ["rude"], examples)
