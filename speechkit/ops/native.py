"""C++ sources built on first use with the system's compiler, and kept for this processor."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

COMPILERS = ("c++", "g++", "clang++")
# no -ffast-math: NaN and infinity must stay what they are
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fPIC", "-shared")
PARALLEL = "-fopenmp"
LONGEST_BUILD_S = 120
HEADERS = Path(__file__).parent
"""What the sources include."""

# torch.library.custom_op would import the compiler, more than a second, on the first call
LIBRARY = torch.library.Library("speechkit", "DEF")
"""Where the ops are registered with torch, so that compile, export and autograd know them."""


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
"""The types of which a source may have a function each, named by them."""


def why_not(x: Tensor, source: Path) -> str | None:
    """Why a source that has these functions cannot take a tensor, or None."""
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
    """The type that sums of products are made in."""
    return torch.promote_types(dtype, torch.float32)


@functools.cache
def load(source: Path) -> ctypes.CDLL | str:
    """The library made of one C++ file, or in a line why there is none."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        reason = f"no C++ compiler ({', '.join(COMPILERS)})"
    else:
        try:
            return ctypes.CDLL(str(_built(source, compiler)))
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            lines = said.strip().splitlines()
            what = next((line for line in lines if "error" in line), lines[0])
            reason = f"{source.parent.name}/{source.name} does not build: {what}"
    # not a warning: a machine without a compiler is nothing that its user must mend
    log.info("native ops are off: %s; torch's own are used", reason)
    return reason


def _built(source: Path, compiler: str) -> Path:
    """The shared library in the cache, built if it is not there."""
    text = b"".join(path.read_bytes() for path in (source, *sorted(HEADERS.glob("*.h"))))
    version = _run(compiler, "--version").splitlines()[0]
    key = "\n".join((version, *FLAGS, PARALLEL, processor())).encode()
    digest = hashlib.sha256(text + key).hexdigest()[:16]
    target = cache_folder() / f"{source.parent.name}-{digest}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = (*FLAGS, f"-I{HEADERS}")
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            try:
                _run(compiler, *flags, PARALLEL, str(source), "-o", str(made))
            except subprocess.CalledProcessError:
                # some compilers come without OpenMP; one thread does as well
                _run(compiler, *flags, str(source), "-o", str(made))
            # whole or not at all, whoever else builds it now
            os.replace(made, target)
    return target


def cache_folder() -> Path:
    """`SPEECHKIT_CACHE`, else speechkit's folder in the user's cache."""
    if folder := os.environ.get("SPEECHKIT_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speechkit"


def processor() -> str:
    """What tells processors with other instructions apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _run(*command: str) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=LONGEST_BUILD_S
    )
    return done.stdout
