"""Checks the parameters and members of a component when it is built or called."""

import difflib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from textwrap import shorten
from typing import Any

from speechkit.component import Spec
from speechkit.errors import ComponentError, SpeechkitError, is_out_of_memory
from speechkit.plugins.entry import Entry

CLOSE = 0.83
"""A name that is at least this similar to another, from 0 to 1, is taken for its misspelling."""
LONGEST_REASON = 200
"""The most characters that a message quotes of a component's own error."""
SCALARS: dict[str, tuple[type, str]] = {
    "bool": (bool, "true or false"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "text"),
    "None": (type(None), "null"),
}
"""The annotations whose values are checked: the type, and the words for it in an error."""


def offered(factory: Callable[..., Any], **values: Any) -> dict[str, Any]:
    """The values for which the factory has a parameter."""
    taken = inspect.signature(factory).parameters
    return {name: value for name, value in values.items() if name in taken}


def check_parameters(
    spec: Spec, entry: Entry, factory: Callable[..., Any], args: tuple[Any, ...], kw: dict[str, Any]
) -> None:
    """Raises ComponentError for a parameter that the factory does not have, and for a value whose
    type is not that of its annotation, if the annotation is one of SCALARS."""
    parts = entry.component.parts
    for name, value in spec.params.items():
        # a stored model would not say which plugin this component comes from
        if isinstance(value, Spec) and name not in parts:
            raise ComponentError(
                f"{entry.kind} {spec}: {name} is given a component; {entry.qualified_name} takes "
                f"one for {sorted(parts) or 'no parameter'}"
            )
    parameters = inspect.signature(factory).parameters
    for name, value in spec.params.items():
        taken = parameters.get(name)
        # a default may be of another type, and a component with parameters stands for its name
        if not taken or type(value) is type(taken.default) or isinstance(value, Spec):
            continue
        if expected := _expected(value, taken.annotation):
            shown = json.dumps(value, default=repr)
            raise ComponentError(
                f"{entry.kind} {spec}: {name} takes {expected}, not {shorten(shown, 60)}"
            )
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    own = [name for name in list(parameters)[len(args) :] if name not in kw]
    for given in spec.params:
        if given not in own:
            hints = [
                f"; or is it one of {name}'s? Write {name}={{name:key=value,{given}=value}}"
                for name in parts
                if isinstance(value := spec.params.get(name), str) and ":" in value
            ]
            raise ComponentError(
                f"{entry.kind} {spec}: got an unexpected keyword argument {given!r}; it takes "
                f"{own}{''.join(hints)}"
            )


def _expected(value: Any, annotation: Any) -> str:
    """The words for an annotation's types if the value has none of them, otherwise ""."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    names = [name.strip() for name in text.split("|")]
    if not SCALARS.keys() >= {*names}:
        return ""
    # a bool is an int in Python
    if isinstance(value, bool):
        fits = "bool" in names
    else:
        fits = isinstance(value, tuple(SCALARS[name][0] for name in names))
    return "" if fits else " or ".join(SCALARS[name][1] for name in names)


def check_members(made: object, base: type, named: str, page: str) -> None:
    """Raises ComponentError if a member is spelt almost like one of `base`, or if an abstract
    member is missing. `page` documents the members.

    If the class defines both names, the name that `base` does not have is a helper of the class.
    """
    classes = type(made).__mro__
    own = {name: x for c in reversed(classes) if issubclass(c, base) for name, x in vars(c).items()}
    others = {name for c in classes if not issubclass(c, base) for name in dir(c)} | {*dir(base)}
    for name in own.keys() - others:
        if name.startswith("_"):
            continue
        like = inspect.isfunction(own[name])
        known = [
            member
            for member, value in vars(base).items()
            if not member.startswith("_")
            and inspect.isfunction(value) == like
            and own[member] is value
        ]
        if near := difflib.get_close_matches(name, known, n=1, cutoff=CLOSE):
            raise ComponentError(
                f"{named} has {name}, which nothing calls; did you mean {near[0]}? If it is a "
                f"helper, name it _{name}"
            )
    for name in vars(base):
        if getattr(own[name], "__isabstractmethod__", False):
            raise ComponentError(f"{named} has no {name}; define it, see {page}")


def public_name(of: type) -> str:
    """The name by which a class is imported, such as `speechkit.train.Method`."""
    return f"{of.__module__.rpartition('.')[0]}.{of.__name__}"


@contextmanager
def calling(component: str, call: str = "") -> Iterator[None]:
    """Turns an error that a component raises into a ComponentError of one line.

    The line names the component and the call; the cause of the error has the traceback. Errors of
    speechkit, of files and of memory pass unchanged.
    """
    try:
        yield
    except (SpeechkitError, OSError):
        raise
    # a component may raise any exception
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = shorten((str(error).splitlines() or [""])[0], LONGEST_REASON)
        raise ComponentError(
            f"{component}{call and f', {call}'}: {type(error).__name__}: {reason}; "
            "SPEECHKIT_TRACEBACK=1 shows where"
        ) from error
