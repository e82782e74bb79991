"""Calls functions of C++ libraries with tensors."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechkit.native.libraries import load

# torch.library.custom_op would import the compiler, more than a second, on the first call
LIBRARY = torch.library.Library("speechkit", "DEF")
"""The torch library of the ops, so that compile, export and autograd support them."""


def call(function: Any, *arguments: Tensor | int | None) -> None:
    """Calls a C function with the addresses of tensors, 64-bit integers, and torch's threads."""
    given = (
        ctypes.c_int64(x)
        if isinstance(x, int)
        else ctypes.c_void_p(None if x is None else x.data_ptr())
        for x in arguments
    )
    function(*given, ctypes.c_int(torch.get_num_threads()))


SUFFIXES = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16"}
"""The suffix of a C++ function for each type."""


def why_not(x: Tensor, source: Path) -> str | None:
    """Why the functions of a source cannot take a tensor, or None."""
    if x.device.type != "cpu":
        return f"it runs on the CPU, not on {x.device.type}"
    if x.dtype not in SUFFIXES:
        return f"it computes in float32, float64 and bfloat16, not {x.dtype}"
    library = load(source)
    return library if isinstance(library, str) else None


def function(source: Path, name: str, x: Tensor) -> Any:
    """The function of a source for tensors of one type."""
    library = load(source)
    assert isinstance(library, ctypes.CDLL), library
    return getattr(library, f"{name}_{SUFFIXES[x.dtype]}")


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """The type of sums of products."""
    return torch.promote_types(dtype, torch.float32)
