"""silero-vad through onnxruntime; its package is not imported.

python benchmarks/silero.py NET.onnx FILE.wav      # probabilities of speech as JSON
"""

import json
import sys

import numpy as np
import onnxruntime
from numpy.typing import NDArray

SAMPLE_RATE = 16000
STEP, CONTEXT = 512, 64
"""The samples of one step, and those of the previous step that it reads again."""


class Silero:
    """The net on one thread, for several recordings in order."""

    def __init__(self, path: object) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(path, options, providers=providers)

    def probabilities(self, samples: NDArray[np.float32]) -> list[float]:
        """The probability of speech in each 512 samples of a recording."""
        state = np.zeros((2, 1, 128), np.float32)
        rate = np.array(SAMPLE_RATE, np.int64)
        x = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
        found = []
        for at in range(0, len(samples) - STEP + 1, STEP):
            fed = {"input": x[None, at : at + CONTEXT + STEP], "state": state, "sr": rate}
            probability, state = self._session.run(None, fed)
            found.append(float(probability[0, 0]))
        return found


def main(net: str, path: str) -> None:
    import soundfile

    samples, _ = soundfile.read(path, dtype="float32")
    print(json.dumps(Silero(net).probabilities(samples)))


if __name__ == "__main__":
    main(*sys.argv[1:])
