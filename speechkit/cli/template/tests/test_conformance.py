"""Every component holds to speechkit's contract; each check is a test."""

from speechkit.testing import Check, parametrize_checks


@parametrize_checks("acme")
def test_conformance(check: Check) -> None:
    check()
