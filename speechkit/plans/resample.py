"""Resampling in front of a plan, so that its sessions take samples at another rate."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from speechkit.plans.plan import Plan
from speechkit.plans.program import FIELDS, Program, Value, outside_bodies

ZEROS = 64
"""Zero crossings of the filter on each side, at the lower of the two rates."""
STOP_DB = 90
"""Attenuation from the lower Nyquist frequency on."""
# Kaiser's design formulas: the shape, and the width of the transition as a part of Nyquist
BETA = 0.1102 * (STOP_DB - 8.7)
TRANSITION = (STOP_DB - 8) / (2.285 * 2 * ZEROS * math.pi)


def phases(rate_in: int, rate_out: int) -> tuple[NDArray[np.float64], int, int, int]:
    """The filters of `speechkit.frontend.Resample`, its stride and rate, and its reach.

    `stride` samples make `rate`, each with a filter of its own over the input from `reach` samples
    before the stride on. Shape: `[rate, 2 · reach + 1 + (rate − 1) · stride // rate]`, each row's
    sum 1.
    """
    common = math.gcd(rate_in, rate_out)
    stride, rate = rate_in // common, rate_out // common
    reach = math.ceil(ZEROS * max(1, stride / rate))
    last = (rate - 1) * stride // rate
    at = np.arange(rate, dtype=np.float64)[:, None] * stride / rate
    tau = at - np.arange(-reach, last + reach + 1, dtype=np.float64)
    low = min(1.0, rate / stride)
    inside = 1 - np.square(low * tau / ZEROS)
    window = np.i0(BETA * np.sqrt(inside.clip(min=0))) * (inside >= 0)
    h: NDArray[np.float64] = np.sinc((1 - TRANSITION / 2) * low * tau) * window
    h /= h.sum(1, keepdims=True)
    return h, stride, rate, reach


@lru_cache(maxsize=16)
def at_rate(plan: Plan, sample_rate: int) -> Plan:
    """The plan for samples at another rate: resampling, a delay if the net's stride needs one, and
    the plan's instructions."""
    about = plan.about
    filters, stride, rate, left = phases(sample_rate, about.sample_rate)
    right = filters.shape[1] - 1 - left
    late = right // stride * rate
    wait = -late % about.stride
    # how many strides of the net make one stride of the whole plan
    strides = rate // math.gcd(about.stride, rate)
    samples = strides * about.stride * stride // rate
    program = Program()
    program.weights.add(plan.weights)
    x = program.emit(
        "resample",
        Value(0, samples, 1),
        rows=strides * about.stride,
        keep=right // stride * stride + left,
        filters=filters,
        taps=filters.shape[1],
        stride=stride,
        left=left,
        rate=rate,
    )
    x = program.emit("delay", x, keep=wait) if wait else x
    behind = plan.program.copy()
    rows, values = FIELDS.index("rows"), [FIELDS.index(name) for name in ("input", "other")]
    for place in outside_bodies(behind):
        row = behind[place]
        row[rows] *= strides
        # −1 means that there is no other value
        row[values] += np.where(row[values] >= 0, x.number, 0)
    return replace(
        plan,
        about=replace(
            about,
            sample_rate=sample_rate,
            stride=samples,
            rate=strides * about.rate,
            delay=(late + wait) // about.stride * about.rate + about.delay,
            shortest=-(-about.shortest * stride // rate),
        ),
        program=np.concatenate([program.table, behind]),
        weights=program.weights.array,
        clip_program=None,
    )
