"""The time of a step of 20 ms of one stream, and the weights that are not 0, of some models.

    python recipes/compression/steps.py runs/base/best runs/pruned/best

The time is the least of 50 rounds of 2 s of noise, each with all models in turn, so that other
work on the machine counts less. On a busy machine it still differs by a tenth from call to call.
"""

import math
import sys
import time
from collections.abc import Iterator

import numpy as np

import speechkit as sk
from speechkit.cli.output import complain
from speechkit.errors import SpeechkitError

STEP_S, SOUND_S, ROUNDS = 0.02, 2.0, 50


def main(*names: str) -> Iterator[str]:
    """Yields a line for each model."""
    models = {name: sk.load(name) for name in names}
    least = dict.fromkeys(models, math.inf)
    streams = {name: sk.stream(model) for name, model in models.items()}
    for _ in range(ROUNDS):
        for name, stream in streams.items():
            rate = models[name].sample_rate
            sound = np.random.default_rng(0).normal(0, 0.1, round(SOUND_S * rate))
            parts = np.split(np.float32(sound), round(SOUND_S / STEP_S))
            begun = time.perf_counter()
            for part in parts:
                stream.feed(part)
            least[name] = min(least[name], (time.perf_counter() - begun) / len(parts))
    for name, model in models.items():
        weights = sum(int(p.count_nonzero()) for p in model.parameters())
        yield f"{1e6 * least[name]:.1f} us, {weights:,} weights that are not 0: {name}"


if __name__ == "__main__":
    try:
        for line in main(*sys.argv[1:]):
            print(line)
    except SpeechkitError as error:
        complain("error", error)
        sys.exit(1)
