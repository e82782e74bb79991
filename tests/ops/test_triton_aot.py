"""Kernels compiled for cards that are not there, as they are launched: no loop spills registers."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from speechkit.ops import Activation, depthwise_conv
from speechkit.ops.separable_conv import ActiveRows, Ring, Shape, Shortcut, pack

ROOT = Path(__file__).parents[2]
pytest.importorskip("triton")
TARGETS = [80, 90]


def benchmark(name: str) -> ModuleType:
    """A module of the folder that lies beside the package."""
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(f"benchmarks.{name}")
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def aot() -> ModuleType:
    return benchmark("aot")


def ring(rows: int, frames: int, channels: int) -> Ring:
    kept = torch.zeros(rows, frames, channels, dtype=torch.bfloat16, device="meta")
    return Ring(kept, torch.zeros(rows, frames, dtype=torch.uint8, device="meta"), 1)


@pytest.mark.parametrize("target", TARGETS)
def test_a_steps_kernels_do_not_spill_in_loops(aot: ModuleType, target: int) -> None:
    shape = Shape(256, 256, 33, padding=(32, 0), activation=Activation("relu(x)"))
    half = {"dtype": torch.bfloat16, "device": "meta"}
    matrix, bias = torch.zeros(256, 256, **half), torch.zeros(256, **half)
    with aot.launches(target) as found, torch.no_grad():
        op = pack(shape, torch.zeros(256, 1, 33, **half), matrix, bias, "triton")
        projection = pack(Shape(256, 256), None, matrix, bias, "triton")
        for sessions in (1, 64):
            active = ActiveRows(
                torch.zeros(sessions, dtype=torch.int64, device="meta"),
                torch.zeros(65, dtype=torch.int64, device="meta"),
                4,
            )
            more = Shortcut(ring(65, 8, 256), 2, projection)
            op.step(ring(65, 36, 256), ring(65, 8, 256), active, 0, more)
        op(torch.zeros(2, 100, 256, **half).transpose(1, 2))
    # with many sessions the depthwise part has a launch of its own
    names = ["separable", "filter_ring", "separable", "separable"]
    assert [built.kernel for built in found] == names
    for built in found:
        assert built.looped == 0, built
        assert 0 < built.registers <= 255
        assert 0 < built.occupancy <= 1


@pytest.mark.parametrize("target", TARGETS)
def test_training_has_kernels_both_ways(aot: ModuleType, target: int) -> None:
    with aot.launches(target) as found:
        x = torch.zeros(2, 100, 64, device="meta").transpose(1, 2).requires_grad_()
        weight = torch.zeros(64, 1, 13, device="meta", requires_grad=True)
        y = depthwise_conv(x, weight, padding=(6, 6), impl="triton")
        y.sum().backward()
    names = ["filter_frames", "filter_frames", "correlate_frames"]
    assert [built.kernel for built in found] == names
    assert all(built.looped == 0 for built in found), found


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("net", ["quartznet", "matchboxnet", "marblenet"])
def test_no_layer_of_the_nets_spills_in_a_loop(
    aot: ModuleType, net: str, precision: str, target: int
) -> None:
    for layer, rows, built in aot.compiled(net, precision, target):
        assert built.looped == 0, (layer, rows, str(built))


def test_occupancy_counts_registers_and_shared_memory(aot: ModuleType) -> None:
    # worked by hand: 65536 / (128 · 32) warps, 164 KiB / 33 KiB blocks
    assert aot.Built("k", 80, 128, 0, 0, 0, 4).occupancy == 16 / 64
    assert aot.Built("k", 80, 32, 0, 0, 32 * 1024, 8).occupancy == 4 * 8 / 64
    assert aot.Built("k", 90, 33, 0, 0, 0, 4).occupancy == 48 / 64


def test_only_spills_within_loops_are_counted(aot: ModuleType) -> None:
    assembly = """
        /*0010*/ STL [R1], R4 ;
.L_x_0:
        /*0020*/ LDL R4, [R1] ;
        /*0030*/ @P5 BRA `(.L_x_1) ;
        /*0040*/ STL [R1], R4 ;
        /*0050*/ @P6 BRA `(.L_x_0) ;
        /*0060*/ LDL R4, [R1] ;
.L_x_1:
        /*0070*/ BRA `(.L_x_1);
"""
    assert aot.in_loops(assembly) == 2


def test_the_floor_of_a_layer_is_worked_out_by_hand() -> None:
    roofline = benchmark("roofline")
    found = roofline.cost(Shape(4, 8, 5, stride=2, dilation=2), 3, sessions=10, frames_out=6)
    # a span of 9 frames with steps of 2: 7 kept and 12 new of 4 channels, 6 out of 8, 6 of 3 more
    assert found.frames == 2 * 10 * ((7 + 12) * 4 + 6 * 8 + 6 * 3)
    assert found.weights == 2 * (4 + 3) * 8 + 4 * (5 * 4 + 8)
    assert found.tensor == 2 * 60 * (4 + 3) * 8
    assert found.vector == 2 * 60 * 4 * 5
    card = roofline.Card("slow", bandwidth=1.0, tensor=1e9, vector=1e9)
    assert found.floor_s(card) == found.frames + found.weights


def test_the_page_has_the_floors_that_are_calculated() -> None:
    roofline = benchmark("roofline")
    page = (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")
    for sessions in roofline.SESSIONS:
        each = roofline.costs("quartznet", sessions, 4)
        numbers = [
            sum(c.weights for c in each) / 1e6,
            sum(c.frames for c in each) / 1e6,
            *(1e6 * sum(c.floor_s(card) for c in each) for card in roofline.CARDS),
        ]
        weights, frames, *floors = (f"{number:.1f}" for number in numbers)
        parts, ours = roofline.launches("quartznet", sessions, 4)
        row = next(line for line in page.splitlines() if line.startswith(f"| {sessions:,} | "))
        cells = row.strip("| ").split(" | ")
        assert cells[1:3] == [weights, frames]
        assert cells[5:] == [*floors, str(parts), str(ours)]


def test_without_a_card_the_benchmark_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["cuda"])
    with pytest.raises(SystemExit, match="there is no CUDA card here"):
        benchmark("cuda").main()
