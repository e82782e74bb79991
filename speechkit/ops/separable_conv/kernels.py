# mypy: disable-error-code="no-untyped-def"
"""The kernels of `triton.py`; importing this imports Triton.

Frames are rows of channels. A program computes BM frames of BCO channels: it filters BCI input
channels over time, multiplies them by their rows of the matrix, and continues with the next BCI.
"""

import triton
import triton.language as tl

UNROLL = tl.constexpr(15)
"""The number of a ring's taps loaded at once; with one at a time, each would wait for memory."""
UNROLL_WHOLE = tl.constexpr(5)
"""The number for a whole recording, with frames in the cache and larger tiles."""
STAGES = tl.constexpr(3)
"""The number of tiles of a plain product that are loaded at once."""


@triton.jit
def separable(
    x_ptr,
    x_step,
    x_rows,
    flags_ptr,
    flags_step,
    taps_ptr,
    matrix_ptr,
    bias_ptr,
    r_ptr,
    r_step,
    r_rows,
    r_matrix_ptr,
    y_ptr,
    y_step,
    y_rows,
    y_flags_ptr,
    y_flags_step,
    slots_ptr,
    counts_ptr,
    sessions,
    frames_out,
    rate,
    back,
    left,
    r_back,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    C_MORE: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    RING: tl.constexpr,
    FILTERED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    EXACT: tl.constexpr,
    BM: tl.constexpr,
    BCI: tl.constexpr,
    BCO: tl.constexpr,
):
    """y = f(W (w * x) + b + residual) for `frames_out` frames of each of `sessions`.

    Sessions are `_step` elements apart. Frame o reads x from o · stride − back on.

    If RING is False, x has `x_rows` frames. It counts as zero beyond them, and where its flags, if
    any, are 0. The residual, if any, has the frames of y.

    If RING is True, session n is row `slots[n]` of the state; −1 is an empty slot. It has computed
    `counts[slot] · rate` frames before, at most 2³¹, which is 248 days at 100 frames a second;
    remainders of 64 bits would be slow. Frame f of a stream is in row f mod `_rows`. The frame of x
    that belongs to a frame of y is `left` after the first that it reads. If its flag is 0, the
    frame of y is zero. y's flags are written too. The residual is `r_back` frames late; with C_MORE
    channels it is multiplied by `r_matrix` first. If FILTERED, x `[sessions · frames_out, C_IN]` is
    the output of `filter_ring`.

    If EXACT, products are in float32, which the interpreter needs for bfloat16.
    """
    # the columns of the same frames run at about the same time, so that they read cached memory
    co = tl.program_id(0) * BCO + tl.arange(0, BCO)[None, :]
    m = tl.program_id(1) * BM + tl.arange(0, BM)[:, None]
    n, t = m // frames_out, m % frames_out
    live = n < sessions
    cols = co < C_OUT
    r_first = t
    if RING:
        n = tl.load(slots_ptr + n, mask=live, other=-1)
        live = live & (n >= 0)
        o = tl.load(counts_ptr + n, mask=live, other=0).to(tl.int32) * rate + t
        first = (o * STRIDE - back + x_rows) % x_rows
        own = first + left
        own = tl.where(own >= x_rows, own - x_rows, own)
        real = live & (tl.load(flags_ptr + n * flags_step + own, mask=live, other=0) != 0)
        if r_ptr is not None:
            r_first = (o - r_back + r_rows) % r_rows
        target = o % y_rows
        if FILTERED:
            first = m * 0
    else:
        n = n.to(tl.int64)
        first = t * STRIDE - back
        real = live
        target = t
    rows = x_ptr + (m * C_IN if FILTERED else n * x_step)
    flags = flags_ptr
    if flags_ptr is not None:
        flags = flags_ptr + n * flags_step

    sums = tl.zeros((BM, BCO), tl.float32)
    # the loop over taps already overlaps its loads
    for start in tl.range(0, C_IN, BCI, num_stages=1 if TAPS > 0 else STAGES):
        ci = start + tl.arange(0, BCI)[None, :]
        if TAPS == 0:
            a = tl.load(rows + first * C_IN + ci, mask=real & (ci < C_IN), other=0.0)
        else:
            a = _filtered(
                rows, flags, taps_ptr, first, x_rows, real, ci, C_IN, TAPS, DILATION, RING, BM, BCI
            )
        sums = _multiplied(a, matrix_ptr, start, co, sums, C_IN, C_OUT, PRECISION, EXACT, BCI)
    if C_MORE > 0:
        rows = r_ptr + n * r_step
        for start in tl.range(0, C_MORE, BCI, num_stages=STAGES):
            ci = start + tl.arange(0, BCI)[None, :]
            a = tl.load(rows + r_first * C_MORE + ci, mask=real & (ci < C_MORE), other=0.0)
            sums = _multiplied(
                a, r_matrix_ptr, start, co, sums, C_MORE, C_OUT, PRECISION, EXACT, BCI
            )

    sums += tl.load(bias_ptr + co, mask=cols, other=0.0)
    if C_MORE == 0 and r_ptr is not None:
        r = tl.load(r_ptr + n * r_step + r_first * C_OUT + co, mask=real & cols, other=0.0)
        sums += r.to(tl.float32)
    y = ACTIVATION(sums)
    if RING:
        y = tl.where(real, y, 0.0)
        if tl.program_id(0) == 0:
            tl.store(y_flags_ptr + n * y_flags_step + target, real.to(tl.uint8), mask=live)
    y = y.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + n * y_step + target * C_OUT + co, y, mask=live & cols)


@triton.jit
def filter_ring(
    x_ptr,
    x_step,
    x_rows,
    taps_ptr,
    y_ptr,
    slots_ptr,
    counts_ptr,
    sessions,
    frames_out,
    rate,
    back,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """The first half of `separable` alone, y `[sessions · frames_out, C]`."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)[None, :]
    m = tl.program_id(1) * BM + tl.arange(0, BM)[:, None]
    live = m < sessions * frames_out
    slot = tl.load(slots_ptr + m // frames_out, mask=live, other=-1)
    real = live & (slot >= 0)
    o = tl.load(counts_ptr + slot, mask=real, other=0).to(tl.int32) * rate + m % frames_out
    first = (o * STRIDE - back + x_rows) % x_rows
    rows = x_ptr + slot * x_step
    y = _filtered(rows, None, taps_ptr, first, x_rows, real, c, C, TAPS, DILATION, True, BM, BC)
    tl.store(y_ptr + m * C + c, y.to(y_ptr.dtype.element_ty), mask=live & (c < C))


@triton.jit
def _filtered(
    rows,
    flags,
    taps_ptr,
    first,
    x_rows,
    real,
    c,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    DILATION: tl.constexpr,
    RING: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Σ_k w[k] x[first + k · dilation] for rows of frames and columns of channels."""
    sums = tl.zeros((BM, BC), tl.float32)
    frame = first
    for k in tl.range(0, TAPS, loop_unroll_factor=UNROLL if RING else UNROLL_WHOLE):
        here = real
        if not RING:
            here = here & (frame >= 0) & (frame < x_rows)
            if flags is not None:
                here = here & (tl.load(flags + frame, mask=here, other=0) != 0)
        x = tl.load(rows + frame * C + c, mask=here & (c < C), other=0.0)
        w = tl.load(taps_ptr + k * C + c, mask=c < C, other=0.0)
        sums += x.to(tl.float32) * w
        frame += DILATION
        if RING:
            frame = tl.where(frame >= x_rows, frame - x_rows, frame)
    return sums


@triton.jit
def _multiplied(
    a,
    matrix_ptr,
    start,
    co,
    sums,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    EXACT: tl.constexpr,
    BCI: tl.constexpr,
):
    """sums + a W for the rows of W `[C_IN, C_OUT]` from `start` on."""
    ci = start + tl.arange(0, BCI)[:, None]
    w = tl.load(matrix_ptr + ci * C_OUT + co, mask=(ci < C_IN) & (co < C_OUT), other=0.0)
    a = a.to(w.dtype)
    if EXACT:
        a, w = a.to(tl.float32), w.to(tl.float32)
    return tl.dot(a, w, sums, input_precision=PRECISION)
