"""Types for units of time, to show the unit in signatures."""

from typing import NewType

Seconds = NewType("Seconds", float)
Samples = NewType("Samples", int)


def to_samples(duration: Seconds, sample_rate: int) -> Samples:
    """The number of samples nearest to `duration`."""
    return Samples(round(duration * sample_rate))


def rounded_s(time_s: float) -> Seconds:
    """A time rounded to a microsecond, less than a sample: 0.22 for 0.21999999999999997."""
    return Seconds(round(time_s, 6))
