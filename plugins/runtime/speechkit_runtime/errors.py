"""The package's exception, and a decorator that raises it for errors of damaged files."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
MAX_MESSAGE_CHARACTERS = 450


class RuntimeFailure(Exception):  # noqa: N818  RuntimeError is taken
    """An error that the caller can fix, in one line: what was given, expected, and to type."""

    def __str__(self) -> str:
        # the value given may hold control characters of the terminal
        line = " ".join(super().__str__().split())
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        half = MAX_MESSAGE_CHARACTERS // 2 - 2
        return shown if len(shown) <= 2 * half else f"{shown[:half]} … {shown[-half:]}"


def answers(verb: Callable[P, T]) -> Callable[P, T]:
    """Makes a function raise RuntimeFailure for any error that a damaged file causes."""

    @functools.wraps(verb)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return verb(*args, **kwargs)
        except RuntimeFailure:
            raise
        # onnxruntime's exceptions have no base but this one
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if "Available memory of" in reason:
                raise RuntimeFailure(
                    "the net needs more memory than it may take; give a shorter recording, or a "
                    "number of gigabytes in the environment variable SPEECHKIT_NET_GB"
                ) from error
            raise RuntimeFailure(
                f"the exported file cannot answer: {reason}; export the model again"
            ) from error

    return guarded
