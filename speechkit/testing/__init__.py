"""Checks that plugin authors and our own tests run."""

from speechkit.testing.stream import assert_close, check_stream, dyadic_, stream

__all__ = ["assert_close", "check_stream", "dyadic_", "stream"]
