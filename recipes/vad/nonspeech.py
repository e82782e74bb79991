"""Synthetic sounds without speech that the corpora lack, at RMS 1, for the test conditions.

Training does not use them. Each function takes a generator and the number of samples.
"""

from collections.abc import Callable, Sequence

import numpy as np
from channels import band, hum
from labels import RATE, Sound
from sounds import coloured, convolve, room

Made = Callable[[np.random.Generator, int], Sound]


def scattered(
    chance: np.random.Generator,
    samples: int,
    event: Callable[[], Sound],
    gap_s: tuple[float, float],
) -> Sound:
    """Events with pauses between them, at levels up to 12 dB apart, in a room."""
    y = np.zeros(samples)
    at = round(chance.uniform(*gap_s) * RATE)
    while at < samples:
        x = event() * 10 ** (-chance.uniform(0, 12) / 20)
        y[at : at + len(x)] += x[: samples - at]
        at += len(x) + round(chance.uniform(*gap_s) * RATE)
    return unit(convolve(y, room(chance, chance.uniform(3, 12))))


def unit(x: Sound) -> Sound:
    """The sound at RMS 1."""
    y: Sound = x / (np.sqrt(np.square(x).mean()) + 1e-12)
    return y


def bump(samples: int, rise: float) -> Sound:
    """A curve that rises from 0 to 1 in the share `rise` of its time and then falls to 0."""
    at = np.linspace(0, 1, samples)
    y: Sound = np.sin(np.pi / 2 * np.minimum(at / rise, (1 - at) / (1 - rise))) ** 2
    return y


def formed(chance: np.random.Generator, source: Sound, formants_hz: Sequence[float]) -> Sound:
    """A source filtered by the resonances of a mouth, 120 Hz wide."""
    hz = np.fft.rfftfreq(len(source), 1 / RATE)
    gain = sum(
        10 ** (-6 * k / 20) / (1 + ((hz - at * chance.uniform(0.95, 1.05)) / 120) ** 2)
        for k, at in enumerate(formants_hz)
    )
    y: Sound = np.fft.irfft(np.fft.rfft(source) * gain, len(source))
    return y


def pulses(base_hz: Sound) -> Sound:
    """The source of a voice: pulses at a frequency that changes. Shape: `[N]` → `[N]`."""
    phase = np.cumsum(base_hz) / RATE
    y: Sound = np.diff(np.floor(phase), prepend=0.0)
    return y


def breath(chance: np.random.Generator, samples: int) -> Sound:
    """Breaths in and out, 0.4 to 1.5 s, near a microphone."""

    def event() -> Sound:
        length = round(chance.uniform(0.4, 1.5) * RATE)
        air = formed(chance, chance.standard_normal(length), (600, 1700, 2800, 4500))
        return unit(air + 0.05 * chance.standard_normal(length)) * bump(
            length, chance.uniform(0.2, 0.8)
        )

    return scattered(chance, samples, event, (0.3, 2.0))


def cough(chance: np.random.Generator, samples: int) -> Sound:
    """One to three coughs at a time: each is a burst of air with a partly voiced end."""

    def one() -> Sound:
        length = round(chance.uniform(0.2, 0.4) * RATE)
        at = np.linspace(0, 1, length)
        base_hz = chance.uniform(90, 250) * (1.2 - 0.4 * at)
        source = chance.standard_normal(length) * np.exp(-6 * at) + 3 * pulses(base_hz) * at * (
            1 - at
        )
        y: Sound = unit(formed(chance, source, (750, 1300, 2600))) * np.minimum(1, (1 - at) / 0.3)
        return y

    def event() -> Sound:
        return np.concatenate([one() for _ in range(chance.integers(1, 4))])

    return scattered(chance, samples, event, (0.8, 3.0))


def laughter(chance: np.random.Generator, samples: int) -> Sound:
    """Laughter: 3 to 9 short voiced bursts, about five a second, that fall in pitch."""

    def event() -> Sound:
        count = chance.integers(3, 10)
        base_hz, length = chance.uniform(130, 380), round(RATE / chance.uniform(4, 6))
        bursts = []
        for number in range(count):
            at = np.linspace(0, 1, length)
            pitch = base_hz * (1 - 0.04 * number) * (1.1 - 0.2 * at)
            air = 0.3 * chance.standard_normal(length)
            burst = formed(chance, 3 * pulses(pitch) + air, (700, 1200, 2500))
            bursts.append(unit(burst) * bump(length, 0.15) ** 2 * 0.93**number)
        return np.concatenate(bursts)

    return scattered(chance, samples, event, (1.0, 3.0))


def keys(chance: np.random.Generator, samples: int) -> Sound:
    """Typing with pauses: 3 to 8 keys a second, each a click down and a softer click up."""

    def click() -> Sound:
        length = round(chance.uniform(0.008, 0.03) * RATE)
        x: Sound = band(chance.standard_normal(length), 800, 6500)
        x *= np.exp(-np.linspace(0, 6, length))
        return x

    def event() -> Sound:
        y = np.zeros(round(chance.uniform(1, 4) * RATE))
        at = 0
        while at < len(y):
            for level, later_s in ((1.0, 0.0), (0.4, chance.uniform(0.06, 0.12))):
                x = level * chance.uniform(0.4, 1) * click()
                start = at + round(later_s * RATE)
                y[start : start + len(x)] += x[: max(0, len(y) - start)]
            at += round(chance.uniform(0.12, 0.3) * RATE)
        return y

    return scattered(chance, samples, event, (0.3, 1.5))


def dishes(chance: np.random.Generator, samples: int) -> Sound:
    """Plates and cutlery: one to four rings of inharmonic partials within half a second."""

    def event() -> Sound:
        y: Sound = np.zeros(RATE)
        for _ in range(chance.integers(1, 5)):
            start = chance.integers(0, RATE // 2)
            t = np.arange(RATE - start) / RATE
            for hz in chance.uniform(900, 7000, chance.integers(4, 10)):
                y[start:] += (
                    chance.uniform(0.2, 1)
                    * np.sin(2 * np.pi * hz * t)
                    * np.exp(-t * chance.uniform(8, 40))
                )
        y /= np.abs(y).max()
        return y

    return scattered(chance, samples, event, (0.2, 1.5))


def tones(chance: np.random.Generator, samples: int) -> Sound:
    """A telephone's tones: keys, ringing, busy."""
    t = np.arange(samples) / RATE
    kind = chance.integers(3)
    if kind == 0:
        low, high = (697, 770, 852, 941), (1209, 1336, 1477)
        step = (t / 0.2).astype(int)
        pairs = np.array([(chance.choice(low), chance.choice(high)) for _ in range(step[-1] + 1)])
        on = (t % 0.2 < 0.1) & (t % 4 < 2.4)
        return unit(on * np.sin(2 * np.pi * pairs[step].T * t).sum(0))
    hz, on_s, every_s = ((440, 480), 2.0, 6.0) if kind == 1 else ((480, 620), 0.5, 1.0)
    return unit((t % every_s < on_s) * sum(np.sin(2 * np.pi * f * t) for f in hz))


def stationary(chance: np.random.Generator, samples: int) -> Sound:
    """White noise, or noise of another colour."""
    return chance.standard_normal(samples) if chance.random() < 0.3 else coloured(chance, samples)


MADE: dict[str, Made] = {
    "breath, made": breath,
    "cough, made": cough,
    "laughter, made": laughter,
    "keys, made": keys,
    "dishes, made": dishes,
    "tones": tones,
    "hum": hum,
    "stationary": stationary,
}


def crowd(chance: np.random.Generator, voices: Sequence[Sound], samples: int) -> Sound:
    """A crowd without words, RMS 1: 25 voices at once, each played backwards, in a large room.

    One voice backwards may still sound like speech; among so many, none can be followed.
    """
    y = np.zeros(samples)
    for _ in range(25):
        x = unit(voices[chance.integers(len(voices))])[::-1]
        y += np.roll(np.resize(x, samples), chance.integers(samples)) * 10 ** (
            -chance.uniform(0, 6) / 20
        )
    return unit(convolve(y, room(chance, -6.0)))
