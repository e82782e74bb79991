"""Every component of the package keeps its contract."""

import pytest

from speechkit.testing import Check, parametrize_checks


@parametrize_checks("probes", long=pytest.mark.slow)
def test_conformance(check: Check) -> None:
    check()
