"""Compiles the steps of the three nets for given GPUs, without a GPU in the machine.

    python -m benchmarks.aot                          bfloat16, every layer shape
    python -m benchmarks.aot --net marblenet --dtype float32 --layer 'K1[35]'

Layers run on tensors without memory; their kernels are compiled and not started. It prints a line
for each kernel, and exits with 1 if one of them spills registers to memory within a loop.
"""

import argparse
import importlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import speechkit as sk
from speechkit.models import Net
from speechkit.ops.separable_conv import ActiveRows, Precision, Shape
from speechkit.streaming.engines.cuda.ring_net import Memory, RingConv, RingNet

SESSIONS = 1, 64, 1024
OFFLINE_FRAMES = 1000
TARGETS = 80, 90
STREAMED = "log_mel:normalize=fixed"
NETS: dict[str, Net] = {
    "quartznet": sk.QuartzNet(size="15x5", frontend=STREAMED, lookahead=0),
    "matchboxnet": sk.MatchboxNet(size="3x2x64", labels=tuple(map(str, range(35))), lookahead=0),
    "marblenet": sk.MarbleNet(frame_level=True, lookahead=0),
}
FRAMES = {"quartznet": 4, "matchboxnet": 8, "marblenet": 1}
"""The frames of a block: 80 ms, and 20 ms for a low latency."""
KERNELS = {
    "separable_conv": ("separable", "filter_ring"),
    "depthwise_conv": ("filter_frames", "correlate_frames"),
}


@dataclass(frozen=True)
class Built:
    """The compiled kernel of a launch for sm_`target`.

    Spilled registers are in `stack` bytes of each thread; `looped` instructions within loops move
    them.
    """

    kernel: str
    target: int
    registers: int
    stack: int
    looped: int
    shared: int
    warps: int

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's 64 warps that can be resident at once.

        It has 65,536 registers, allocated 256 per warp at a time, and at most 32 blocks. Each block
        uses 1 KiB of shared memory more than it requests (CUDA C++ Programming Guide, compute
        capabilities 8.0 and 9.0).
        """
        of_a_warp = -(-self.registers * 32 // 256) * 256
        shared = {80: 164, 90: 228}[self.target] * 1024 // (self.shared + 1024)
        blocks = min(32, 64 // self.warps, 65536 // of_a_warp // self.warps, shared)
        return blocks * self.warps / 64

    def __str__(self) -> str:
        figures = f"{self.registers:5} {self.stack:6} {self.looped:8} {self.shared:6}"
        figures += f" {self.occupancy:9.0%}"
        return f"{self.kernel:17} sm_{self.target} {figures}"


@contextmanager
def launches(target: int) -> Iterator[list[Built]]:
    """Within the block, kernels of tensors on any device are compiled and added to the list."""
    import triton

    found: list[Built] = []
    with ExitStack() as stack:
        active = mock.patch.object(triton.runtime.driver, "_active", _Absent(target))
        stack.enter_context(active)
        for op, names in KERNELS.items():
            why_not = mock.patch(f"speechkit.ops.{op}.triton.why_not", return_value=None)
            stack.enter_context(why_not)
            module = importlib.import_module(f"speechkit.ops.{op}.kernels")
            for name in names:
                stand_in = _Compiled(getattr(module, name), found, target)
                stack.enter_context(mock.patch.object(module, name, stand_in))
        yield found


class _Absent:
    """The functions of a driver that Triton calls before it compiles; each target is one device."""

    def __init__(self, target: int) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.target, 32)

    def get_current_device(self) -> int:
        return self.target

    def get_current_stream(self, device: int) -> int:
        return 0


class _Compiled:
    """A kernel that compiles instead of a start."""

    def __init__(self, kernel: Any, found: list[Built], target: int) -> None:
        self.kernel, self.found, self.target = kernel, found, target

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*operands: Any, **more: Any) -> None:
            made = self.kernel.warmup(*operands, grid=grid, **more)
            name, meta = self.kernel.__name__, made.metadata
            sizes = *resources(made.asm["cubin"]), meta.shared, meta.num_warps
            self.found.append(Built(name, self.target, *sizes))

        return launch


def resources(cubin: bytes) -> tuple[int, int, int]:
    """The registers of a binary, its bytes on the stack, and the instructions on those in loops."""
    usage = _asked("cuobjdump", "--dump-resource-usage", cubin)
    figures = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    stack = figures["STACK"] + figures["LOCAL"]
    return figures["REG"], stack, in_loops(_asked("nvdisasm", "-c", cubin)) if stack else 0


def in_loops(assembly: str) -> int:
    """The number of loads and stores of the stack between a label and a branch back to it."""
    lines = assembly.splitlines()
    labels = {line.strip().rstrip(":"): at for at, line in enumerate(lines) if line[:2] == ".L"}
    looped: set[int] = set()
    for at, line in enumerate(lines):
        if (found := re.search(r"\bBRA\b.*\((\.L\w+)\)", line)) and found[1] in labels:
            looped |= set(range(labels[found[1]], at))
    return sum(bool(re.search(r"\b(LDL|STL)\b", lines[at])) for at in looped)


def _asked(tool: str, option: str, cubin: bytes) -> str:
    """The output of one of Triton's tools for a binary."""
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(path), option, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def plan(net: str, precision: Precision = "float32", impl: str = "reference") -> RingNet:
    """A net over tensors without memory, as sessions run it."""
    layer = sk.build(NETS[net]).eval().to("meta").stream_layer(window_s=0.63)
    return RingNet(layer, precision=precision, impl=impl)


def layers(net: str) -> list[tuple[Shape, int]]:
    """The separable convolutions of a net, each with the channels of its shortcut, 0 without."""
    convs = [op for op in plan(net).ops if isinstance(op, RingConv)]
    return [(c.packed.shape, c.projection.shape.c_in if c.projection else 0) for c in convs]


def title(op: RingConv) -> str:
    s = op.packed.shape
    text = f"{s.c_in}->{s.c_out} " + (f"K{s.taps}" if s.taps else "1x1")
    text += f" s{s.stride}" if s.stride > 1 else ""
    text += f" d{s.dilation}" if s.dilation > 1 else ""
    return text + (f" +{op.projection.shape.c_in}" if op.projection else "")


def compiled(
    net: str, precision: Precision, target: int, layers: str = ""
) -> Iterator[tuple[str, str, Built]]:
    """Each launch of a net once: the layer, the number of frames, and the compiled kernel.

    `layers` is a regular expression for their titles.
    """
    seen = set()
    with launches(target) as found, torch.no_grad():
        model = plan(net, precision, "triton")
        convs = [op for op in model.ops if isinstance(op, RingConv)]
        convs = [op for op in convs if re.search(layers, title(op))]
        for op in {title(op): op for op in convs}.values():
            for sessions in SESSIONS:
                memory = Memory(model, sessions, FRAMES[net], "meta")
                slots = torch.zeros(sessions, dtype=torch.int64, device="meta")
                op(memory, ActiveRows(slots, memory.counts, FRAMES[net] // model.rate))
                for built in found:
                    if (key := (title(op), built)) not in seen:
                        seen.add(key)
                        yield title(op), f"step of {sessions}", built
                found.clear()
            kept = model.specs[op.source.ring].dtype
            x = torch.zeros(1, OFFLINE_FRAMES, op.packed.shape.c_in, device="meta", dtype=kept)
            op.packed(x.transpose(1, 2))
            yield title(op), "whole", found.pop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=NETS, nargs="*", default=list(NETS))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--layer", default="", metavar="REGEX", help="of what is printed")
    arguments = parser.parse_args()
    import triton

    print(f"triton {triton.__version__}, {arguments.dtype}; compiled, not run")
    print(f"{'net':12} {'layer':20} {'for':13} {'kernel':17}", end=" ")
    print("target  regs spills in loops shared occupancy")
    spilled = 0
    for net in arguments.net:
        for target in TARGETS:
            for layer, rows, built in compiled(net, arguments.dtype, target, arguments.layer):
                spilled += built.looped > 0
                print(f"{net:12} {layer:20} {rows:13} {built}", flush=True)
    print(f"{spilled or 'none'} of them spill registers in a loop")
    raise SystemExit(bool(spilled))


if __name__ == "__main__":
    main()
