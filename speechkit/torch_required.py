"""Imported first by what needs torch: where that is missing, one line says what to type."""

from importlib.util import find_spec

from speechkit.errors import MissingExtraError

if find_spec("torch") is None:
    raise MissingExtraError("torch", "torch")
