# mypy: disable-error-code="no-untyped-def"
"""The kernels of `triton.py`; importing this imports Triton.

Frames are rows of C channels. If dimensions are constants, Triton omits unnecessary masks.
"""

import triton
import triton.language as tl

UNROLL = tl.constexpr(15)
"""The number of taps that are loaded at once; with one at a time, each would wait for memory."""


@triton.jit
def filter_frames(
    x_ptr,
    valid_ptr,
    taps_ptr,
    y_ptr,
    written_ptr,
    frames,
    frames_out,
    left,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    SUMS: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
):
    """y[t] = Σ_k w[k] x[t · stride + k · dilation − left], or its gradient if TRANSPOSED.

    The gradient is y[t] = Σ_k w[k] x[(t + left − k · dilation) / stride] over integer quotients.
    Frames of x count as zero where `valid` is 0; frames of y are zero where `written` is 0. Either
    may be None. A program computes BT frames of BC channels.
    """
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)[:, None]
    c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    here = t < frames_out
    cols = c < C
    x_ptr += b * frames * C
    y_ptr += b * frames_out * C
    sums = tl.zeros((BT, BC), SUMS)
    for k in tl.range(0, TAPS, loop_unroll_factor=UNROLL):
        if TRANSPOSED:
            at = t + left - k * DILATION
            frame = at // STRIDE
            real = here & (at >= 0) & (frame < frames) & (at % STRIDE == 0)
        else:
            frame = t * STRIDE + k * DILATION - left
            real = here & (frame >= 0) & (frame < frames)
        if valid_ptr is not None:
            real = real & (tl.load(valid_ptr + b * frames + frame, mask=real, other=0) != 0)
        x = tl.load(x_ptr + frame * C + c, mask=real & cols, other=0.0)
        w = tl.load(taps_ptr + k * C + c, mask=cols, other=0.0)
        sums += x.to(SUMS) * w.to(SUMS)
    if written_ptr is not None:
        real = tl.load(written_ptr + b * frames_out + t, mask=here, other=0) != 0
        sums = tl.where(real, sums, 0.0)
    tl.store(y_ptr + t * C + c, sums.to(y_ptr.dtype.element_ty), mask=here & cols)


@triton.jit
def correlate_frames(
    x_ptr,
    valid_ptr,
    dy_ptr,
    dw_ptr,
    frames,
    frames_out,
    left,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    SUMS: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
):
    """dw[b, k] = Σ_t dy[b, t] x[b, t · stride + k · dilation − left], one tap per program."""
    k = tl.program_id(0)
    b = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    cols = c < C
    x_ptr += b * frames * C
    dy_ptr += b * frames_out * C
    sums = tl.zeros((BT, BC), SUMS)
    for start in tl.range(0, frames_out, BT):
        t = start + tl.arange(0, BT)[:, None]
        frame = t * STRIDE + k * DILATION - left
        real = (t < frames_out) & (frame >= 0) & (frame < frames)
        if valid_ptr is not None:
            real = real & (tl.load(valid_ptr + b * frames + frame, mask=real, other=0) != 0)
        x = tl.load(x_ptr + frame * C + c, mask=real & cols, other=0.0)
        dy = tl.load(dy_ptr + t * C + c, mask=real & cols, other=0.0)
        sums += x.to(SUMS) * dy.to(SUMS)
    total = tl.sum(sums, 0)[None, :]
    tl.store(dw_ptr + (b * TAPS + k) * C + c, total, mask=cols)
