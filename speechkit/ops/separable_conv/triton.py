"""The separable convolution in Triton for CUDA, offline and as a step of many sessions.

`kernels.py`, which imports Triton, is imported by the first call. If a gradient is needed, the
parts run in sequence, each with its own gradient.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechkit.ops.gpu import interpreted, launch, tile, tiles, why_not
from speechkit.ops.separable_conv.ring import ActiveRows, Ring, Shortcut
from speechkit.ops.separable_conv.shape import Shape
from speechkit.ops.separable_conv.unfused import needs_gradient, unfused
from speechkit.ops.triton_expressions import compiled

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unsupported(shape: Shape, pointwise: Tensor) -> str | None:
    """The reason why this implementation does not support these weights, or None."""
    reason = why_not(pointwise, DTYPES)
    return "it has no int8" if reason is None and shape.precision == "int8" else reason


def pack(
    shape: Shape, depthwise: Tensor | None, pointwise: Tensor, bias: Tensor
) -> tuple[Tensor | None, ...]:
    """Taps `[K, C]`, matrix `[C, C']` and bias; the plain weights last."""
    taps = None if depthwise is None else depthwise.detach()[:, 0].T.float().contiguous()
    half = shape.precision == "bfloat16"
    matrix = pointwise.detach().T.to(torch.bfloat16 if half else pointwise.dtype).contiguous()
    return taps, matrix, bias.detach().float().contiguous(), depthwise, pointwise, bias


def run(
    shape: Shape,
    weights: tuple[Tensor | None, ...],
    x: Tensor,
    valid: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """Shapes as Packed."""
    *_, depthwise, pointwise, bias = weights
    if needs_gradient(x, residual, depthwise, pointwise, bias):
        return unfused(shape, depthwise, pointwise, bias, x, valid, residual, "triton")
    rows = x.transpose(1, 2).contiguous()
    batch, frames, _ = rows.shape
    y = rows.new_empty(batch, shape.frames_out(frames), shape.c_out)
    more = None if residual is None else residual.transpose(1, 2).to(x.dtype).contiguous()
    _start(
        shape,
        weights,
        tiling(batch * y.shape[1], shape, False, _dtype(weights)),
        **_memory("x", rows),
        **_memory("y", y),
        **_memory("r", more),
        **_memory("flags", None if valid is None else valid.contiguous().view(torch.uint8)),
        sessions=batch,
        frames_out=y.shape[1],
        back=shape.padding[0],
    )
    return y.transpose(1, 2)


def step(
    shape: Shape,
    weights: tuple[Tensor | None, ...],
    source: Ring,
    target: Ring,
    active: ActiveRows,
    back: int,
    shortcut: Shortcut | None,
) -> None:
    """As Packed's."""
    sessions, frames_out = len(active.slots), active.strides * target.rate
    chosen = tiling(sessions * frames_out, shape, True, _dtype(weights))
    operands = {
        "slots_ptr": active.slots,
        "counts_ptr": active.counts,
        "sessions": sessions,
        "frames_out": frames_out,
        "rate": target.rate,
        "back": back,
    }
    x = _memory("x", source.frames)
    work = _filtered(shape, weights, x, operands) if chosen.split else None
    more = None if shortcut is None else shortcut.ring.frames
    matrix = None if shortcut is None or shortcut.packed is None else shortcut.packed.weights[1]
    _start(
        shape,
        weights,
        chosen,
        **(x if work is None else {**x, "x_ptr": work}),
        **_memory("y", target.frames),
        **_memory("r", more),
        **_memory("flags", source.valid),
        **_memory("y_flags", target.valid),
        **operands,
        left=shape.padding[0],
        r_back=shortcut.wait if shortcut else 0,
        r_matrix_ptr=matrix,
        C_MORE=0 if matrix is None else matrix.shape[0],
        RING=True,
        FILTERED=chosen.split,
    )


def _filtered(
    shape: Shape, weights: tuple[Tensor | None, ...], x: dict[str, Any], operands: dict[str, Any]
) -> Tensor:
    """The depthwise part of a step, `[N · T', C]`."""
    from speechkit.ops.separable_conv.kernels import filter_ring

    rows = operands["sessions"] * operands["frames_out"]
    y: Tensor = x["x_ptr"].new_empty(rows, shape.c_in)
    bm, bc = FILTER
    bc = tile(shape.c_in, bc)
    launch(
        filter_ring,
        (tiles(shape.c_in, bc), tiles(rows, bm)),
        y,
        **x,
        **operands,
        taps_ptr=weights[0],
        y_ptr=y,
        C=shape.c_in,
        TAPS=shape.taps,
        STRIDE=shape.stride,
        DILATION=shape.dilation,
        BM=bm,
        BC=bc,
    )
    return y


class Tiling(NamedTuple):
    """The tile of a program: BM frames of BCO channels, with BCI input channels at a time.

    With `split` the depthwise part is a separate launch.
    """

    bm: int
    bci: int
    bco: int
    warps: int
    split: bool = False


FILTER = 16, 64
"""The frames and channels of a program of the depthwise part."""
FEW, MANY = 16, 256
"""Up to FEW frames, small tiles use more of the GPU's cores. From MANY frames on, a separate launch
takes less time than to filter the frames again for each column of tiles."""


def tiling(rows: int, shape: Shape, ring: bool, dtype: torch.dtype) -> Tiling:
    """The tiling for `rows` frames and a matrix of `dtype`."""
    bci, bco = (32, 64) if dtype == torch.float32 else (64, 128)
    if not ring:
        return Tiling(64, tile(shape.c_in, 32), tile(shape.c_out, bco), 8)
    if rows <= FEW:
        return Tiling(16, tile(shape.c_in, 2 * bci), tile(shape.c_out, 32), 4)
    if rows < MANY:
        return Tiling(16, tile(shape.c_in, bci), tile(shape.c_out, 64), 4)
    return Tiling(64, tile(shape.c_in, bci), tile(shape.c_out, bco), 8, split=shape.taps > 0)


ABSENT: dict[str, Any] = {
    **dict.fromkeys(("r_matrix_ptr", "y_flags_ptr", "slots_ptr", "counts_ptr")),
    **dict.fromkeys(("y_flags_step", "rate", "left", "r_back", "C_MORE"), 0),
    "RING": False,
    "FILTERED": False,
}
"""Default values of the arguments that an offline launch does not use."""


def _constants(shape: Shape, t: Tiling, dtype: torch.dtype) -> dict[str, Any]:
    """The compile-time constants of `separable` except the caller's; matrices are of `dtype`."""
    fast = torch.get_float32_matmul_precision() != "highest"
    return {
        "C_IN": shape.c_in,
        "C_OUT": shape.c_out,
        "TAPS": 0 if t.split else shape.taps,
        "STRIDE": shape.stride,
        "DILATION": shape.dilation,
        "ACTIVATION": compiled(shape.activation.text),
        "PRECISION": "tf32" if fast else "tf32x3",
        # the interpreter multiplies the bits of bfloat16 as integers
        "EXACT": interpreted() and dtype == torch.bfloat16,
        "BM": t.bm,
        "BCI": t.bci,
        "BCO": t.bco,
    }


def _start(shape: Shape, weights: tuple[Tensor | None, ...], t: Tiling, **operands: Any) -> None:
    from speechkit.ops.separable_conv.kernels import separable

    taps, matrix, bias, *_ = weights
    assert matrix is not None
    rows = operands["sessions"] * operands["frames_out"]
    launch(
        separable,
        (tiles(shape.c_out, t.bco), tiles(rows, t.bm)),
        matrix,
        taps_ptr=taps,
        matrix_ptr=matrix,
        bias_ptr=bias,
        **ABSENT | operands | _constants(shape, t, matrix.dtype),
        num_warps=t.warps,
    )


def _dtype(weights: tuple[Tensor | None, ...]) -> torch.dtype:
    """That of the matrix."""
    matrix = weights[1]
    assert matrix is not None
    return matrix.dtype


def _memory(name: str, x: Tensor | None) -> dict[str, Any]:
    """The address and strides of `[N, T, C]` or `[N, T]` as operands of a kernel."""
    step, rows = (0, 1) if x is None else (x.stride(0), x.shape[1])
    made = {f"{name}_ptr": x, f"{name}_step": step}
    return made if name.endswith("flags") else {**made, f"{name}_rows": rows}
