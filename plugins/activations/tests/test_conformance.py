"""Every component of the package keeps its contract."""

from speechkit.testing import Check, parametrize_checks


@parametrize_checks("activations")
def test_conformance(check: Check) -> None:
    check()
