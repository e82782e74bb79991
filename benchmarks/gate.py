"""Text in audio without speech: the transcripts of a recogniser with and without the vad.

    .venv/bin/python -m benchmarks.gate [--speech MANIFEST ...] [--sounds PATH ...] [--most N]

PATH is a manifest or a folder of recordings without speech; only their first 10 s are used. They
are added to generated noise, dither, hum, clicks and tones. Speech has a second of noise before and
after it, and is measured at its own level and at -30 dB of full scale, in three bands. Prints a
table.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import speechkit as sk
from speechkit.data import find_audio, read_audio, read_manifest
from speechkit.tasks import metrics

RATE = 16000
LONGEST_S = 10
LEVELS_DB = (-60, -50, -40, -30, -20, -10)
QUIET_DB = -30
COLOURS = {"white": 0.0, "pink": 0.5, "brown": 1.0}
"""The exponent of the frequency by which a noise's amplitude falls."""
BANDS = {"16 kHz": (0, 8000), "8 kHz": (0, 4000), "300 to 3400 Hz": (300, 3400)}


Sound = NDArray[np.floating[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", nargs="*", type=Path, default=[])
    parser.add_argument("--sounds", nargs="*", type=Path, default=[])
    parser.add_argument("--most", type=int, default=150, help="utterances of each manifest")
    options = parser.parse_args()
    model = sk.prepare(sk.load("an4"))

    def texts(sounds: Iterable[NDArray[np.float32]], vad: str | None) -> list[str]:
        return [sk.transcribe(model, x, RATE, vad=vad).text for x in sounds]

    print("| | without | with |\n|---|---|---|", flush=True)
    groups = {"generated": [x for seed in (11, 12) for x in generated(seed)]}
    groups |= {str(path): recordings(path) for path in options.sounds}
    for name, sounds in groups.items():
        words = [sum(len(text.split()) for text in texts(sounds, vad)) for vad in (None, "vad")]
        print(f"| words in {len(sounds)} sounds, {name} | {words[0]} | {words[1]} |", flush=True)
    for path in options.speech:
        rows = read_manifest(path)
        rows = rows[:: -(-len(rows) // options.most)]
        references = [row.text or row.label or "" for row in rows]
        for band, (low, high) in BANDS.items():
            for level in (None, QUIET_DB):
                sounds = [
                    surrounded(filtered(read(row.audio), low, high), level, seed)
                    for seed, row in enumerate(rows)
                ]
                rates = [metrics.wer(references, texts(sounds, vad)) for vad in (None, "vad")]
                name = f"WER of {len(rows)} of {path}, {band}, {level or 'own'} dB"
                print(f"| {name} | {rates[0]:.3f} | {rates[1]:.3f} |", flush=True)


def generated(seed: int) -> Iterator[NDArray[np.float32]]:
    """31 sounds without speech, `[N]`."""
    random = np.random.default_rng(seed)
    size = LONGEST_S * RATE
    t = np.arange(size) / RATE
    white = random.standard_normal(size)
    for exponent in COLOURS.values():
        spectrum = np.fft.rfft(white) / np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20) ** exponent
        noise = np.fft.irfft(spectrum, size)
        for level in LEVELS_DB:
            yield at_level(noise, level)
    yield as_sound(0.03 * white)
    yield as_sound(random.integers(-1, 2, size) / 32768)
    yield as_sound(np.round(random.random(size) - random.random(size)) / 32768)
    yield as_sound(np.zeros(size))
    for level in (-60, -30, -15):
        yield at_level(sum(np.sin(100 * np.pi * n * t) / n for n in range(1, 8)), level)
    clicks = np.zeros(size)
    clicks[random.integers(0, size, 30)] = 0.8
    yield as_sound(clicks)
    knock = 0.5 * np.exp(-np.arange(300) / 40)
    knocks = np.zeros(size)
    for at in random.integers(0, size - 300, 20):
        knocks[at : at + 300] += knock * random.standard_normal(300)
    yield as_sound(knocks)
    yield as_sound(0.1 * np.sin(2000 * np.pi * t))
    yield as_sound(0.2 * np.sin(2 * np.pi * (100 * t + 175 * t**2)))
    yield as_sound(0.05 * white * (1 + np.sin(8 * np.pi * t)))
    keys = np.sin(1540 * np.pi * t) + np.sin(2672 * np.pi * t)
    yield as_sound(0.1 * keys * (np.sin(4 * np.pi * t) > 0))


def recordings(path: Path) -> list[NDArray[np.float32]]:
    """The first seconds of a folder's or a manifest's recordings."""
    files = find_audio([path]) if path.is_dir() else [row.audio for row in read_manifest(path)]
    return [read(file)[: LONGEST_S * RATE] for file in files]


def read(path: Path) -> NDArray[np.float32]:
    return read_audio(path, target_rate=RATE).numpy()


def filtered(x: NDArray[np.float32], low_hz: int, high_hz: int) -> NDArray[np.float64]:
    """`x` without the frequencies outside a band."""
    spectrum, hertz = np.fft.rfft(x), np.fft.rfftfreq(len(x), 1 / RATE)
    return np.fft.irfft(np.where((hertz >= low_hz) & (hertz <= high_hz), spectrum, 0), len(x))


def surrounded(x: Sound, level_db: float | None, seed: int) -> NDArray[np.float32]:
    """`x` at a level, with a second of noise, as loud as its quiet tenth, before and after it."""
    if level_db is not None:
        x = at_level(x, level_db)
    noise = np.random.default_rng(seed).standard_normal((2, RATE)) * np.quantile(np.abs(x), 0.1)
    # of 16 bits, as recordings are
    return as_sound(np.round(np.concatenate([noise[0], x, noise[1]]) * 32768) / 32768)


def at_level(x: Sound, level_db: float) -> NDArray[np.float32]:
    """`x` with a root mean square of `level_db` below full scale."""
    return as_sound(x * 10 ** (level_db / 20) / np.sqrt(np.mean(np.square(x)) + 1e-20))


def as_sound(x: Sound) -> NDArray[np.float32]:
    return np.clip(x, -1, 1).astype(np.float32)


if __name__ == "__main__":
    main()
