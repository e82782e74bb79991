"""The core's training components can be loaded and take the parameters of their examples."""

import importlib
import inspect

import pytest

from speechkit.builtin import training
from speechkit.component import Component

COMPONENTS = [
    *training.speechkit_losses(),
    *training.speechkit_methods(),
    *training.speechkit_optimizers(),
    *training.speechkit_schedules(),
    *training.speechkit_inits(),
    *training.speechkit_decoders(),
]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda c: c.name)
def test_a_component_loads_and_takes_its_example(component: Component) -> None:
    assert isinstance(component.factory, str)
    module, _, attribute = component.factory.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    assert set(component.example) <= set(inspect.signature(factory).parameters)
    assert component.summary
    assert component.formula or component.paper
