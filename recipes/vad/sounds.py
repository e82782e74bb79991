"""Synthetic sounds: rooms, stationary noise, and music without a voice."""

from collections.abc import Sequence

import numpy as np
from labels import RATE, Sound


def room(chance: np.random.Generator, direct_db: float) -> Sound:
    """A synthetic impulse response whose direct sound is `direct_db` above everything after it.

    After it, with a delay of 2 to 8 ms, is noise that decays by 60 dB in 0.2 to 0.9 s, faster above
    2 kHz.
    """
    decay_s = chance.uniform(0.2, 0.9)
    t = np.arange(round(decay_s * RATE)) / RATE
    low = np.fft.rfft(chance.standard_normal(len(t)))
    low /= 1 + np.fft.rfftfreq(len(t), 1 / RATE) / 2000
    tail = np.fft.irfft(low, len(t)) * 10 ** (-3 * t / decay_s)
    tail += 0.5 * chance.standard_normal(len(t)) * 10 ** (-3 * t / (0.4 * decay_s))
    h: Sound = np.concatenate([np.zeros(round(chance.uniform(0.002, 0.008) * RATE)), tail])
    h *= 10 ** (-direct_db / 20) / np.sqrt(np.square(h).sum())
    h[0] = 1.0
    return h


def coloured(chance: np.random.Generator, samples: int) -> Sound:
    """Stationary noise of RMS 1 with a smooth random spectrum that mostly falls."""
    hz = np.fft.rfftfreq(samples, 1 / RATE)
    octave = np.log2(hz / 100 + 0.5)
    shape_db = chance.uniform(-6, 1) * octave
    shape_db += np.interp(octave, np.linspace(-1, 6.4, 6), chance.uniform(-8, 8, 6))
    x: Sound = np.fft.irfft(
        np.fft.rfft(chance.standard_normal(samples)) * 10 ** (shape_db / 20), samples
    )
    x /= np.sqrt(np.square(x).mean())
    return x


def music(chance: np.random.Generator, seconds: float) -> Sound:
    """One to four instruments without a voice: plucked or held notes of a scale, perhaps a drum."""
    y = np.zeros(round(seconds * RATE))
    beat_s, base_hz = chance.uniform(0.15, 0.6), chance.uniform(55, 220)
    for _ in range(chance.integers(1, 5)):
        decay, slope = chance.choice([0.3, 3.0, 8.0]), chance.uniform(0.7, 2.5)
        octave, vibrato = 2.0 ** chance.integers(0, 3), chance.choice([0, 0, 0.01])
        at = 0.0
        while at < seconds:
            length_s = beat_s * chance.integers(1, 5)
            t = np.arange(round(length_s * RATE)) / RATE
            hz = base_hz * octave * 2 ** (chance.choice([0, 2, 3, 5, 7, 8, 10, 12]) / 12)
            phase = 2 * np.pi * hz * (t + vibrato / 6 * np.sin(2 * np.pi * 6 * t))
            note = sum(np.sin(k * phase) / k**slope for k in range(1, 9) if k * hz < RATE / 2)
            note = note * np.exp(-decay * t) * np.minimum(1, np.minimum(t, t[-1] - t) / 0.01)
            start = round(at * RATE)
            y[start : start + len(t)] += (note * chance.uniform(0.3, 1))[: len(y) - start]
            at += length_s
    if chance.random() < 0.5:
        hits = np.zeros(len(y))
        hits[:: round(beat_s * RATE)] = 1
        t = np.arange(round(0.12 * RATE)) / RATE
        y += convolve(hits, chance.standard_normal(len(t)) * np.exp(-40 * t))
    y /= np.sqrt(np.square(y).mean())
    return y


def convolve(x: Sound, h: Sound) -> Sound:
    """x in a room, with the length of x and without delay of the direct sound."""
    size = 1 << (len(x) + len(h)).bit_length()
    direct = int(np.abs(h).argmax())
    y: Sound = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(h, size), size)
    return y[direct:][: len(x)]


def clicks(chance: np.random.Generator, samples: int) -> Sound:
    """A few bursts of 1 to 30 ms with peaks near 1, as from a switch or a touched microphone."""
    y = np.zeros(samples)
    for _ in range(chance.integers(1, 12)):
        length = round(chance.uniform(0.001, 0.03) * RATE)
        at = chance.integers(0, samples - length)
        burst = chance.standard_normal(length) * np.exp(-np.linspace(0, 5, length))
        y[at : at + length] += burst * chance.uniform(0.05, 1) / 3
    return y


def rumble(chance: np.random.Generator, samples: int) -> Sound:
    """Wind, breath or a hand on a microphone: noise below 80 to 500 Hz that swells; RMS 1."""
    hz = np.fft.rfftfreq(samples, 1 / RATE)
    gain = 1 / (1 + (hz / chance.uniform(80, 500)) ** chance.uniform(3, 6))
    y: Sound = np.fft.irfft(np.fft.rfft(chance.standard_normal(samples)) * gain, samples)
    # levels at random times, up to 40 dB apart, some of them steep
    count = round(samples / RATE * chance.uniform(0.5, 6)) + 2
    at = np.sort(chance.uniform(0, samples, count))
    y *= 10 ** (np.interp(np.arange(samples), at, chance.uniform(-40, 0, count)) / 20)
    return y / (rms(y) + 1e-9)


def crowd(chance: np.random.Generator, voices: Sequence[Sound], samples: int) -> Sound:
    """A crowd of 8 to 30 voices in a large room, half of them played backwards; RMS 1."""
    y = np.zeros(samples)
    for _ in range(chance.integers(8, 31)):
        x = voices[chance.integers(len(voices))][:: chance.choice([-1, 1])]
        x = np.roll(np.resize(x, samples), chance.integers(samples))
        y += x / (rms(x) + 1e-9) * 10 ** (-chance.uniform(0, 6) / 20)
    y = convolve(y, room(chance, chance.uniform(-10, 3)))
    return y / (rms(y) + 1e-9)


def rms(x: Sound) -> float:
    return float(np.sqrt(np.square(x, dtype=np.float64).mean()))


def rms_db(x: Sound) -> float:
    return 20 * float(np.log10(rms(x) + 1e-6))
