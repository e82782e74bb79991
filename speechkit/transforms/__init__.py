"""Transforms: a new model from a trained one; `speechkit transform`.

A transform is a component whose factory returns `f(model, examples)` → a new model and a report.
"""

import speechkit.torch_required

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from speechkit.card import AppliedTransform
from speechkit.component import Spec
from speechkit.errors import ComponentError, ConfigError
from speechkit.io.untrusted import parse_json
from speechkit.limits import MAX_REPORT_BYTES
from speechkit.models import Model, Net, build
from speechkit.models.model import evaluating, refuse_prepared
from speechkit.nn.seeded import seeded
from speechkit.plugins import calling, registry
from speechkit.probes import Examples

log = logging.getLogger(__name__)


class Transform(Protocol):
    """Returns a new model, which is completely described by its config and weights. `model` is in
    evaluation and does not change."""

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        """The new model and a report of what was done, in JSON."""
        ...


def transform(
    model: Model, specs: Iterable[Spec | str], examples: Examples | None = None
) -> tuple[Model, list[AppliedTransform]]:
    """Applies transforms in order; returns the last model and each transform with its report.

    For each transform the random generators start at the seed of `examples`, or 0; they are
    restored afterwards. Raises ComponentError for an unknown transform, and for a result that
    cannot be saved as a model.
    """
    refuse_prepared(model, "transform")
    asked = [Spec.parse(spec) for spec in specs]
    steps: list[tuple[Spec, Transform]] = [(s, registry().build("transform", s)) for s in asked]
    applied = []
    with evaluating(model):
        for spec, apply in steps:
            named = registry().title("transform", spec)
            given = examples and examples.of(model)
            before = {name: x.clone() for name, x in model.state_dict().items()}
            with seeded(examples.seed if examples else 0):
                with calling(named):
                    made = apply(model, given)
                if not isinstance(made, tuple) or len(made) != 2:
                    raise ComponentError(
                        f"{named} returns an object of type {type(made).__name__}; return the new "
                        "model and a report, such as (model, {})"
                    )
                if not _equal(before, model.state_dict()):
                    raise ComponentError(
                        f"{named} changes the model that it is given; change copy.deepcopy(model)"
                    )
                old, (model, report) = model.config, made
                _check(named, model)
                if _is_new(model.state_dict(), model.config) and not _is_new(before, old):
                    log.warning("%s returns an untrained model: all of its weights are new", named)
                model.eval()
            entry = registry().find("transform", spec.name)
            name = str(Spec(entry.qualified_name, spec.params))
            applied.append(
                AppliedTransform(name=name, version=entry.version, report=_plain(named, report))
            )
    return model, applied


def required(examples: Examples | None, transform: str) -> Examples:
    """The examples that a transform needs; raises ConfigError if there are none."""
    if examples is None:
        raise ConfigError(f"transform {transform} needs recordings; give --manifest M")
    return examples


def check_components(transform: str, config: Net, takes: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ConfigError unless `takes` lists all components of the net and its rows."""
    for kind, spec in config.components():
        names = takes.get(kind)
        name = registry().find(kind, spec.name).qualified_name
        if names is not None and name not in names:
            raise ConfigError(
                f"transform {transform} takes a net with {kind}={names[0]}, not {kind}={name}"
            )


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """True if two models have the same tensors."""
    return one.keys() == other.keys() and all(
        x.shape == other[name].shape and torch.equal(x.nan_to_num(), other[name].nan_to_num())
        for name, x in one.items()
    )


def _is_new(weights: Mapping[str, Tensor], config: Net) -> bool:
    """True if the weights are those that a net begins with."""
    fresh = build(config).state_dict()
    return _equal({name: x.cpu() for name, x in weights.items()}, fresh)


def _check(named: str, model: Model) -> None:
    """Raises ComponentError if the model differs from its config."""
    if not isinstance(model, Model) or model.prepared is not None:
        raise ComponentError(f"{named} returns no model that can be saved")
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ComponentError(
                f"{named} returns a model whose {name} holds NaN or infinity; give it more and "
                "longer recordings, or other parameters"
            )
    own, stated = (
        {name: x.shape for name, x in m.state_dict().items()} for m in (model, build(model.config))
    )
    if differing := sorted(k for k in own.keys() | stated.keys() if own.get(k) != stated.get(k)):
        raise ComponentError(
            f"{named}: {differing[0]} is not as its model's config says; a transform "
            "changes the config along with the weights"
        )


def _plain(named: str, report: Any) -> dict[str, Any]:
    """The report after a round trip through JSON; raises ComponentError if it is no object."""
    try:
        plain = parse_json(json.dumps(report), most=MAX_REPORT_BYTES)
    except (TypeError, ValueError) as error:
        raise ComponentError(f"{named}: its report is no JSON: {error}") from error
    if not isinstance(plain, dict):
        raise ComponentError(f"{named}: its report is {type(plain).__name__}, not a dict")
    return plain
