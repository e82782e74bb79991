"""Changes the rules of a model: some fields of each, or a whole rule."""

from typing import Any

from speechkit.config import from_dict, to_dict
from speechkit.errors import ConfigError

RULES = ("postprocess", "spotting", "endpointing")
"""The fields of a config, or of the `About` of a plan, that hold rules."""


def changed_rules(owner: Any, **given: Any) -> dict[str, Any]:
    """The changed rules of an `owner`, a config or an `About`; those given as None are left out.

    A dict changes the fields that it names, and an object of the rule's type replaces it. A lower
    onset also lowers the offset in proportion, unless that is given too. Raises ConfigError for
    another type, and for a rule that the owner does not have.
    """
    own = [name for name in RULES if getattr(owner, name, None) is not None]
    rules = {name: rule for name, rule in given.items() if rule is not None or name not in RULES}
    for name, rule in rules.items():
        if name not in own:
            what = f"give {' or '.join(own)}" if own else "leave it out"
            raise ConfigError(f"a {owner.kind} has no {name:.40}; {what}")
        before = getattr(owner, name)
        if isinstance(rule, dict):
            rules[name] = _changed(before, rule, name)
        elif not isinstance(rule, type(before)):
            kind = type(before).__name__
            raise ConfigError(f"{name}={rule!r:.40}: give a dict of its fields, or a {kind}")
    return rules


def _changed(rule: Any, changes: dict[str, Any], where: str) -> Any:
    """A rule with some of its fields changed; ConfigError names the field and the reason."""
    stored = to_dict(rule)
    data = {**stored, **changes}
    lowered = from_dict(float, data["onset"], f"{where}.onset") if "onset" in stored else 0.0
    if "offset" not in changes and lowered < stored.get("onset", 0):
        data["offset"] = stored["offset"] * lowered / stored["onset"]
    return from_dict(type(rule), data, where)
