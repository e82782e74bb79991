"""The built-in front ends as components."""

import importlib

import pytest
import torch

from speechkit.builtin.frontends import speechkit_frontends
from speechkit.component import Component
from speechkit.testing import check_stream


@pytest.mark.parametrize("component", speechkit_frontends(), ids=lambda c: c.name)
def test_examples_build_and_stream(component: Component) -> None:
    module, _, name = str(component.factory).partition(":")
    layer = getattr(importlib.import_module(module), name)(16000, **component.example)
    check_stream(layer.double(), torch.rand(1, 1, 3200, dtype=torch.float64) - 0.5)
