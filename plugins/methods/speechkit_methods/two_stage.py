"""A learning rate of two stages."""

from speechkit.train.schedules import Schedule


def two_stage(steps: int, switch: float = 0.5, first: float = 0.1) -> Schedule:
    """`first` of the base learning rate until step `switch`, then all of it.

    `switch` is a number of steps, or a fraction of the run if below 1. Raises ValueError for a
    switch beyond the run, and for `first` outside 0 to 1. Source: Du et al., arXiv:1709.06129;
    there the second stage begins when the weights point about the right way, here at a fixed step.
    """
    last = int(switch * steps) if 0 < switch < 1 else int(switch)
    if not 0 <= last < steps:
        raise ValueError(f"switch={switch} in a run of {steps} steps; give fewer, or a fraction")
    if not 0 < first <= 1:
        raise ValueError(f"first={first}; give a fraction of the base rate, above 0 and at most 1")
    return lambda step: first if step < last else 1.0
