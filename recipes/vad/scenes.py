"""Scenes: clean speech in rooms, with noise, music and silence, and its labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import soxr
from labels import RATE, Piece, Segments, Sound
from sounds import coloured, convolve, room

LEVEL_DB = -22.0
"""The speech of a scene before its gain; dB of full scale, RMS over the labelled time."""
FLOOR_DB = (-60.0, -20.0)
"""Each scene has a floor of stationary noise, at this level relative to the speech."""


@dataclass(frozen=True)
class Scene:
    """Audio `[N]`, its speech and speakers, and its properties, such as `room: far`."""

    audio: Sound
    segments: Segments
    speakers: set[str]
    contents: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Studio:
    """The material of scenes: clean speech, recordings of noise, measured rooms."""

    speech: Sequence[Piece]
    noise: Sequence[Sound]
    rooms: Sequence[Sound]

    def scene(self, chance: np.random.Generator, noisy: float) -> Scene:
        """6 to 12 s; one in five has no speech, and the share `noisy` of the others has noise."""
        samples = round(chance.uniform(6, 12) * RATE)
        silent = chance.random() < 0.2
        speech = self.conversation(chance, 0 if silent else samples)
        segments, contents = speech.segments, speech.contents
        y = np.pad(speech.audio, (0, samples - len(speech.audio)))
        if segments:
            y *= 10 ** ((LEVEL_DB - rms_db(spoken(y, segments))) / 20)
        floor_db = chance.uniform(*FLOOR_DB)
        if silent or chance.random() < noisy:
            snr_db = chance.uniform(-5, 30)
            y += self.background(chance, samples) * 10 ** ((LEVEL_DB - snr_db) / 20)
            contents["snr"] = f"{snr_db:.0f}"
        for _ in range(chance.integers(0, 4) if chance.random() < 0.4 else 0):
            self.add_event(chance, y)
        y += coloured(chance, samples) * 10 ** ((LEVEL_DB + floor_db) / 20)
        return replace(speech, audio=y)

    def conversation(self, chance: np.random.Generator, samples: int) -> Scene:
        """Utterances with pauses of 0 to 5 s, each at its own level and distance in one room."""
        y = np.zeros(samples)
        segments: Segments = []
        speakers = set()
        contents = {"corpus": "none", "room": "dry"}
        wet = chance.random() < 0.55
        measured = chance.random() < 0.2
        distance_db = chance.uniform(-8, 10)
        at_s = min(4.0, chance.exponential(1.0))
        while at_s < samples / RATE - 0.5:
            piece = self.speech[chance.integers(len(self.speech))]
            if chance.random() < 0.5:
                piece = faster(piece, chance.uniform(0.88, 1.14))
            x = piece.audio * 10 ** (-rms_db(spoken(piece.audio, piece.segments)) / 20)
            x = x * 10 ** (-chance.choice([3, 8, 15]) * chance.random() / 20)
            ramp = np.minimum(1, np.minimum(np.arange(len(x)), np.arange(len(x))[::-1]) / 160)
            x = x * ramp
            if wet:
                contents["room"] = "far" if measured or distance_db < 2 else "near"
                direct_db = distance_db + chance.uniform(-3, 3)
                h = self.rooms[chance.integers(len(self.rooms))] if measured else None
                x = convolve(x, room(chance, direct_db) if h is None else h)
            start = round(at_s * RATE)
            end = min(samples, start + len(x))
            y[start:end] += x[: end - start]
            at_s, last_s = start / RATE, end / RATE
            found = [(at_s + a, min(at_s + b, last_s)) for a, b in piece.segments]
            segments += [(a, b) for a, b in found if b - a > 0.03]
            contents["corpus"] = piece.corpus
            speakers.add(piece.speaker)
            at_s = max(0.0, last_s - chance.choice([0, 0.6]))
            at_s += (
                chance.uniform(0, 0.3) if chance.random() < 0.3 else min(5, chance.exponential(1.4))
            )
        return Scene(y, merged(segments), speakers, contents)

    def background(self, chance: np.random.Generator, samples: int) -> Sound:
        """One or two recordings of noise, repeated to length, or stationary noise; RMS 1."""
        y = np.zeros(samples)
        for _ in range(chance.integers(1, 3)):
            x = self.noise[chance.integers(len(self.noise))]
            if chance.random() < 0.25:
                x = coloured(chance, samples)
            start = chance.integers(0, max(1, len(x) - samples // 2))
            part = np.resize(x[start : start + samples], samples)
            y += part / (rms(part) + 1e-9) * 10 ** (-chance.uniform(0, 10) / 20)
        return y / (rms(y) + 1e-9)

    def add_event(self, chance: np.random.Generator, y: Sound) -> None:
        """A sound of 0.1 to 2 s, about as loud as speech: a door, a cough, a horn."""
        x = self.noise[chance.integers(len(self.noise))]
        length = min(len(x), round(chance.uniform(0.1, 2) * RATE))
        start = chance.integers(0, len(x) - length + 1)
        x = x[start : start + length]
        at = chance.integers(0, len(y) - length + 1)
        level_db = LEVEL_DB + chance.uniform(-25, 8)
        y[at : at + length] += (
            x / (rms(x) + 1e-9) * 10 ** (level_db / 20) * np.hanning(length) ** 0.2
        )


def merged(segments: Segments) -> Segments:
    """Overlapping segments joined, sorted."""
    found: Segments = []
    for start, end in sorted(segments):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def spoken(audio: Sound, segments: Segments) -> Sound:
    """The samples that are labelled speech, `[N']`."""
    return np.concatenate([audio[round(a * RATE) : round(b * RATE)] for a, b in segments])


def rms(x: Sound) -> float:
    return float(np.sqrt(np.square(x, dtype=np.float64).mean()))


def rms_db(x: Sound) -> float:
    return 20 * float(np.log10(rms(x) + 1e-6))


def faster(piece: Piece, factor: float) -> Piece:
    """The piece at another speed and pitch: other speakers, in effect."""
    audio = soxr.resample(piece.audio, round(100 * factor), 100)
    stretch = len(audio) / len(piece.audio)
    segments = [(a * stretch, b * stretch) for a, b in piece.segments]
    return replace(piece, audio=audio, segments=segments)
