"""Records one person's clips for prepare.py: names a word, and records after each Enter.

    python recipes/adapt/record.py MINE [WORD ...]

Writes MINE/WORD/1.wav to 5.wav, in rounds of all words; without WORD these are the ten digits.
Recordings that are there already are kept.
"""

import sys
from pathlib import Path

import numpy as np
import soundfile

from speechkit.streaming.sources import Microphone

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROUNDS = 5
RATE = 16000
CLIP_S = 1.5


def record(folder: Path, words: tuple[str, ...] = DIGITS) -> None:
    """Asks for each word ROUNDS times and writes the clips."""
    for number in range(1, ROUNDS + 1):
        for word in words:
            path = folder / word / f"{number}.wav"
            if path.exists():
                continue
            input(f"Press Enter, then say: {word}  ({number} of {ROUNDS}) ")
            path.parent.mkdir(parents=True, exist_ok=True)
            with Microphone(RATE) as microphone:
                samples = np.zeros(0, np.float32)
                for block in microphone:
                    samples = np.concatenate([samples, block])
                    if len(samples) >= CLIP_S * microphone.sample_rate:
                        break
            soundfile.write(path, samples, microphone.sample_rate)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"{__doc__}\ngive a folder for the clips")
    record(Path(sys.argv[1]), tuple(sys.argv[2:]) or DIGITS)
