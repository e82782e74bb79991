"""Probes: measurements of a trained model; `speechkit probe`.

A probe is a component whose factory returns `f(model, examples)` → tensors by name.
"""

import speechkit.torch_required

import copy
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.models.model import refuse_prepared
from speechkit.nn.seeded import seeded
from speechkit.plugins import calling, registry
from speechkit.probes.examples import Examples as Examples


class Probe(Protocol):
    """Measures a copy of a model in evaluation, which it may train, change or add hooks to."""

    def __call__(self, model: Model, examples: Examples) -> dict[str, Tensor]:
        """Scalars, vectors, matrices and larger tensors by name, over valid frames."""
        ...


def probe(
    model: Model, specs: Iterable[Spec | str], examples: Examples
) -> dict[str, dict[str, Tensor]]:
    """The tensors of each probe, by the probe and then by name, on the CPU.

    The model and the random generators do not change. Raises ComponentError for an unknown probe,
    and for one that returns anything else than tensors.
    """
    refuse_prepared(model, "probe")
    asked = [Spec.parse(spec) for spec in specs]
    looks: list[tuple[str, Probe]] = [(str(s), registry().build("probe", s)) for s in asked]
    found = {}
    for name, look in looks:
        own = copy.deepcopy(model).eval()
        given, named = examples.of(own), registry().title("probe", name)
        with seeded(examples.seed), calling(named):
            tensors = look(own, given)
        found[name] = _tensors(named, tensors)
    return found


def _tensors(named: str, found: Any) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise ComponentError(
            f"{named} returns an object of type {type(found).__name__}; return tensors by name, "
            "such as {'share': x}"
        )
    for key, value in found.items():
        if not isinstance(value, Tensor) or value.is_complex() or value.layout != torch.strided:
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            sparse = isinstance(value, Tensor) and value.layout != torch.strided
            raise ComponentError(
                f"{named}: {key!r} is {value.layout if sparse else what}; a probe returns dense "
                "tensors of real numbers"
            )
    # copies, or views of one tensor could not be saved
    return {key: value.detach().cpu().clone() for key, value in found.items()}
