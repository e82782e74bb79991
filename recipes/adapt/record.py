"""Records one person's clips for prepare.py: names a word, and records after each Enter.

    python recipes/adapt/record.py MINE [WORD ...]

Writes MINE/WORD/1.wav to 5.wav, in rounds of all words; without WORD these are the ten digits.
Recordings that are there already are kept.
"""

from pathlib import Path

import numpy as np
import soundfile

import speechkit as sk
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
            with Microphone(RATE) as microphone:
                samples = np.zeros(0, np.float32)
                for block in microphone:
                    samples = np.concatenate([samples, block])
                    if len(samples) >= CLIP_S * microphone.sample_rate:
                        break
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, microphone.sample_rate)


def main(folder: str, *words: str) -> list[Path]:
    """`record` with the arguments of the command line."""
    record(Path(folder), words or DIGITS)
    return [Path(folder)]


if __name__ == "__main__":
    sk.cli.prepare(main)
