"""Labels of speech whose words are not known: silero-vad says where it is, the level where it ends.

silero-vad has the MIT licence. `pip install silero-vad --no-deps` is enough, for this file loads
its net without the package's code.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from alignment import word_segments
from labels import RATE, Segments, Sound, stretches

from speechkit.errors import MissingExtraError

WINDOW = 512
AHEAD = 16
"""Windows of silence before a recording, since the net is less sure at the beginning."""
LEAST_PROBABILITY = 0.5


def teacher() -> Callable[[Sound], Segments]:
    """A function with silero-vad's answers. Raises MissingExtraError without the package."""
    found = find_spec("silero_vad")
    if found is None or found.origin is None:
        raise MissingExtraError("silero-vad", "bench", "labels of speech without a transcript")
    net = torch.jit.load(str(Path(found.origin).parent / "data" / "silero_vad.jit"))

    @torch.inference_mode()
    def segments(x: Sound) -> Segments:
        net.reset_states()
        # as loud as the speech that the net knows
        loud = 0.1 * x / (np.sqrt(np.square(x).mean()) + 1e-9)
        padded = np.pad(loud, (AHEAD * WINDOW, -len(x) % WINDOW)).astype(np.float32)
        windows = torch.from_numpy(padded).split(WINDOW)
        scores = np.array([net(window[None], RATE).item() for window in windows])[AHEAD:]
        # as frames of 10 ms
        middles_s = (np.arange(len(x) // 160) + 0.5) / 100
        speech = scores[(middles_s * RATE / WINDOW).astype(int)] > LEAST_PROBABILITY
        return word_segments(stretches(speech), x)

    return segments
