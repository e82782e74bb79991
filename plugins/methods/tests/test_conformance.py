"""Every component holds the contract of its kind."""

from collections.abc import Callable

from speechkit.testing import parametrize_checks


@parametrize_checks("methods")
def test_conformance(check: Callable[[], None]) -> None:
    check()
