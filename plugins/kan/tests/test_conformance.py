"""Every component holds the contract of its kind."""

from speechkit.testing import Check, parametrize_checks


@parametrize_checks("kan")
def test_conformance(check: Check) -> None:
    check()
