"""Transforms: a model made into another; `speechkit transform`.

A transform is a component whose factory returns `f(model, examples)` → another model and a report.
"""

import json
from collections.abc import Iterable
from typing import Any, Protocol

from speechkit.component import Spec
from speechkit.errors import ComponentError, ConfigError
from speechkit.models import Model, build
from speechkit.models.model import refuse_prepared
from speechkit.nn.seeded import seeded
from speechkit.plugins import registry
from speechkit.probes import Examples


class Transform(Protocol):
    """Makes a new model, whose config and weights say all of it; `model` stays as it is."""

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        """The new model and a report of what was done, in JSON."""
        ...


def transform(
    model: Model, specs: Iterable[Spec | str], examples: Examples | None = None
) -> tuple[Model, list[dict[str, Any]]]:
    """Applies transforms in order; returns the last model and, for each transform, a `report` with
    its `name` and the `version` of its plugin.

    The random generators begin at the seed of `examples`, or 0, for each and are left as they were.
    ComponentError for an unknown transform, and for one whose result is no model that can be saved.
    """
    refuse_prepared(model, "transform")
    asked = [Spec.parse(spec) for spec in specs]
    steps: list[tuple[Spec, Transform]] = [(s, registry().build("transform", s)) for s in asked]
    records = []
    for spec, apply in steps:
        with seeded(examples.seed if examples else 0):
            model, report = apply(model, examples and examples.of(model))
            _check(spec, model, report)
        entry = registry().find("transform", spec.name)
        name = str(Spec(entry.qualified_name, spec.params))
        records.append({"name": name, "version": entry.version, "report": report})
    return model.eval(), records


def required(examples: Examples | None, transform: str) -> Examples:
    """The examples that a transform cannot do without; ConfigError where there are none."""
    if examples is None:
        raise ConfigError(f"transform {transform} needs recordings; give --manifest M")
    return examples


def _check(spec: Spec, model: Model, report: dict[str, Any]) -> None:
    """ComponentError where the model is not what its config says, or the report is no JSON."""
    if not isinstance(model, Model) or model.prepared is not None:
        raise ComponentError(f"transform {spec} returns no model that can be saved")
    own, stated = ({k: x.shape for k, x in m.items()} for m in _states(model))
    if differing := sorted(k for k in own.keys() | stated.keys() if own.get(k) != stated.get(k)):
        raise ComponentError(
            f"transform {spec}: {differing[0]} is not as its model's config says; a transform "
            "changes the config along with the weights"
        )
    try:
        json.dumps(report, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ComponentError(f"transform {spec}: its report is no JSON: {error}") from error


def _states(model: Model) -> Any:
    return model.state_dict(), build(model.config).state_dict()
