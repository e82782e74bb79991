"""The devices of Triton kernels, and the arguments of their launches."""

import functools
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from speechkit.ops.native import sum_type

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """True if kernels run in Python, on tensors of the CPU: slow, for tests.

    TRITON_INTERPRET=1 must be set before triton is imported.
    """
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not(x: Tensor, dtypes: tuple[torch.dtype, ...] = DTYPES) -> str | None:
    """The reason why a Triton kernel for these types does not support a tensor, or None.

    It imports no Triton.
    """
    if x.device.type != "cuda" and not interpreted():
        missing = "" if has_card() else ", and this machine has no CUDA card"
        return f"it runs on CUDA, not on {x.device.type}{missing}"
    if x.dtype not in dtypes:
        names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
        return f"it computes in {', '.join(names[:-1])} and {names[-1]}, not {x.dtype}"
    return None if _installed() else "triton is not installed; pip install 'speechkit-core[triton]'"


@functools.cache
def has_card() -> bool:
    """True if torch can use a CUDA GPU."""
    return torch.cuda.is_available()


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def launch(kernel: Any, grid: tuple[int, ...], x: Tensor, **operands: Any) -> None:
    """Starts a kernel on the device of x, which may differ from torch's current one."""
    with torch.cuda.device_of(x):
        kernel[grid](**operands, enable_fp_fusion=True)


def sums(dtype: torch.dtype) -> Any:
    """Triton's name of the type of sums."""
    import triton.language as tl

    return tl.float64 if sum_type(dtype) == torch.float64 else tl.float32


def tile(size: int, most: int, least: int = 16) -> int:
    """The least power of two that is at least `size`, clamped to `least` and `most`."""
    return min(most, max(least, 1 << (size - 1).bit_length()))


def tiles(size: int, each: int) -> int:
    """The number of tiles of size `each` that cover `size`."""
    return -(-size // each)
