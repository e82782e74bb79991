"""The time of a step of 20 ms of one stream, and the weights that are not 0, of some models.

    python recipes/compression/steps.py runs/base/best runs/pruned/best

× is the share of the first model's time. On a busy machine a time differs by a tenth from call to
call.
"""

import sys
from collections.abc import Iterator

from speechkit_compression.step_time import step_times_s

import speechkit as sk
from speechkit.cli.output import complain
from speechkit.errors import SpeechkitError

STEP_S, ROUNDS = 0.02, 50


def main(*names: str) -> Iterator[str]:
    """Yields a line for each model."""
    models = [sk.load(name) for name in names]
    times = step_times_s(models, STEP_S, ROUNDS)
    for name, model, time_s in zip(names, models, times, strict=True):
        weights = sum(int(p.count_nonzero()) for p in model.parameters())
        yield (
            f"{1e6 * time_s:.1f} us × {time_s / times[0]:.2f}, "
            f"{weights:,} weights that are not 0: {name}"
        )


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    try:
        for line in main(*sys.argv[1:]):
            print(line)
    except SpeechkitError as error:
        complain("error", error)
        sys.exit(1)
