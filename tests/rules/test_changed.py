"""Rules are changed by dicts or whole rules, and anything else is refused in one line."""

from dataclasses import replace
from typing import Any

import pytest

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.plans.source import resolve
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing


@pytest.fixture(params=["model", "plan", "about"])
def owner(request: pytest.FixtureRequest) -> Any:
    plan = resolve("vad")
    return {"model": sk.load("vad"), "plan": plan, "about": plan.about}[request.param]


@pytest.mark.parametrize("rule", [5, 0, True, "x", [1], Spotting()], ids=repr)
def test_a_rule_is_a_dict_or_of_its_own_type(owner: Any, rule: object) -> None:
    with pytest.raises(ConfigError, match="give a dict of its fields, or a PostProcessing"):
        owner.with_(postprocess=rule)
    with pytest.raises(ConfigError, match="a marblenet has no spotting; give postprocess"):
        owner.with_(spotting=rule)


@pytest.mark.parametrize("value", [1, None])
def test_a_rule_that_no_model_has_is_named(owner: Any, value: object) -> None:
    with pytest.raises(ConfigError, match="a marblenet has no foo; give postprocess"):
        owner.with_(foo=value)


def rule_of(owner: Any) -> PostProcessing:
    about = getattr(owner, "config", None) or getattr(owner, "about", owner)
    rule: PostProcessing = about.postprocess
    return rule


def test_none_changes_nothing(owner: Any) -> None:
    assert rule_of(owner.with_(postprocess=None, spotting=None)) == rule_of(owner)
    assert rule_of(owner.with_(postprocess=PostProcessing())) == PostProcessing()


def test_a_model_without_rules_takes_none() -> None:
    about = replace(resolve("vad").about, postprocess=None)
    with pytest.raises(ConfigError, match="a marblenet has no postprocess; leave it out"):
        about.with_(postprocess={"onset": 0.5})
