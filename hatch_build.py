"""Compiles the package's C++ for each set of instructions of x86-64 when a wheel is built."""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
LINKING = (
    # so that only what computes in parallel needs libgomp, which torch brings
    "-Wl,--as-needed",
    # what another compiler's OpenMP leaves open is an error here, not at first use
    "-Wl,-z,defs",
    "-s",
)
GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")


class Libraries(BuildHookInterface[Any]):
    """Puts the libraries next to their sources; a wheel of another platform has none."""

    folder = ""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return
        sys.path.insert(0, str(ROOT))
        from speechkit.native import compiler
        from speechkit.native.libraries import INSTRUCTIONS, prebuilt

        program = compiler.compiler()
        if program is None:
            self.app.display_warning("no C++ compiler: libraries are compiled at first use")
            return
        self.folder = tempfile.mkdtemp()
        # all processors compile at once, and nobody waits for a command
        compiler.LONGEST_BUILD_S = 1200

        def made(source: Path, instructions: str) -> tuple[str, str]:
            place = prebuilt(source, instructions).relative_to(ROOT)
            target = Path(self.folder, place)
            target.parent.mkdir(parents=True, exist_ok=True)
            compiler.build(source, program, target, *INSTRUCTIONS[instructions].compiler, *LINKING)
            return str(target), str(place)

        jobs = product(sorted((ROOT / "speechkit").rglob("*.cpp")), INSTRUCTIONS)
        try:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                places = dict(threads.map(made, *zip(*jobs, strict=True)))
        except (compiler.UnbuiltError, OSError) as error:
            self.app.display_warning(f"libraries are compiled at first use: {error}")
            return
        build_data["force_include"].update(places)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform(places)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.folder:
            shutil.rmtree(self.folder)


def _platform(files: Iterable[str]) -> str:
    """The tag of the oldest Linux that has each function of libc that the libraries call."""
    versions = [v for file in files for v in GLIBC.findall(Path(file).read_bytes())]
    if not versions:
        return "linux_x86_64"
    major, minor = max((int(major), int(minor)) for major, minor in versions)
    return f"manylinux_{major}_{minor}_x86_64"
