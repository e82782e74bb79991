"""The libraries of C++ sources: those of the wheel, else compiled on first use.

A wheel for Linux on x86-64 holds each library once per set of instructions, next to its source.
"""

import ctypes
import functools
import logging
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from speechkit.errors import one_line

log = logging.getLogger(__name__)


class Instructions(NamedTuple):
    """The compiler's flags for a set of instructions, and the flags in /proc/cpuinfo it needs."""

    compiler: tuple[str, ...]
    processor: frozenset[str]


_V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
INSTRUCTIONS = {
    "x86-64-v4-bf16": Instructions(
        ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"), _V4 | {"avx512_vnni", "avx512_bf16"}
    ),
    "x86-64-v4": Instructions(("-march=x86-64-v4",), _V4),
    "x86-64-v3": Instructions(("-march=x86-64-v3",), _V3),
}
"""The sets of instructions for which a wheel has libraries, the fastest first."""


@functools.cache
def load(source: Path) -> ctypes.CDLL | str:
    """The library of one C++ file, or the reason in one line why there is none."""
    if library := _of_the_wheel(source):
        return library
    # imported here, as it is not needed where the wheel has the libraries
    from speechkit.native.compiler import compiled

    return compiled(source)


def prebuilt(source: Path, instructions: str) -> Path:
    """The path of a source's library in a wheel, for a set of instructions."""
    return source.with_name(f"{source.stem}.{instructions}.so")


def _of_the_wheel(source: Path) -> ctypes.CDLL | None:
    """The wheel's library for the best instructions of this processor."""
    for name, instructions in INSTRUCTIONS.items():
        path = prebuilt(source, name)
        if path.is_file() and instructions.processor <= processor_flags():
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                log.warning("%s; the library is compiled instead", one_line(error))
    return None


@functools.cache
def processor_flags() -> frozenset[str]:
    """The flags of this processor in /proc/cpuinfo; empty on other systems than Linux."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        # only the first core is read: the file repeats the line for each core, and some have many
        for line in lines:
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()
