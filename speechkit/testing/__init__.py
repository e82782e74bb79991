"""Checks of components, for plugin authors and for speechkit's own tests."""

import speechkit.torch_required

from speechkit.testing.conformance import (
    Check,
    Outcome,
    check_plugin,
    checks_of,
    parametrize_checks,
    run_checks,
)
from speechkit.testing.native import check_native
from speechkit.testing.stream import assert_close, check_stream, dyadic_, stream

__all__ = [
    "Check",
    "Outcome",
    "assert_close",
    "check_native",
    "check_plugin",
    "check_stream",
    "checks_of",
    "dyadic_",
    "parametrize_checks",
    "run_checks",
    "stream",
]
