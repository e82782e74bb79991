"""Scenes for training: speech in rooms, with music, noise and crowds, through telephones.

Everything is drawn anew for each scene. The labels are those of the clean speech.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import soxr
from channels import band, clipped, gsm, hum, mulaw, offset, opus, sampled, stepped
from labels import RATE, Piece, Segments, Sound, merged, spoken
from sounds import clicks, coloured, convolve, crowd, music, rms, rms_db, room

LEVEL_DB = -22.0
"""The speech of a scene; dB of full scale, RMS over the labelled time. Training changes it."""
SCENE_S = (6.0, 18.0)
Chance = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """Sound `[N]` and where speech is in it, in seconds."""

    audio: Sound
    segments: Segments


@dataclass(frozen=True, kw_only=True)
class Studio:
    """The material of scenes.

    `voices` has pieces of clean speech, in pools with the chance of each; `rooms` measured impulse
    responses; `meetings` those of a few talkers in each of many simulated rooms.
    """

    voices: Sequence[tuple[float, Sequence[Piece]]]
    music: Sequence[Sound]
    noise: Sequence[Sound]
    rooms: Sequence[Sound]
    meetings: Sequence[Sequence[Sound]]

    def scene(self, chance: Chance) -> Scene:
        """One scene; a third of them have no speech."""
        # a whole number of tenths of a second, for which transforms are fast
        samples = round(10 * chance.uniform(*SCENE_S)) * RATE // 10
        y: Sound = np.zeros(samples)
        segments: Segments = []
        if chance.random() < 0.67:
            y, segments = self.conversation(chance, samples)
        if not segments or chance.random() < 0.7:
            snr_db = chance.uniform(-5, 30)
            y = y + self.background(chance, samples) * 10 ** ((LEVEL_DB - snr_db) / 20)
        if chance.random() < 0.4:
            self.add_events(chance, y)
        if chance.random() < 0.8:
            y += coloured(chance, samples) * 10 ** ((LEVEL_DB + chance.uniform(-60, -20)) / 20)
        return Scene(channel(chance, y), segments)

    def conversation(self, chance: Chance, samples: int) -> tuple[Sound, Segments]:
        """Utterances of one to four talkers in one room, with pauses; a third of the scenes begin
        in the middle of an utterance."""
        ways = self.ways(chance, chance.integers(1, 5))
        talkers = [self.talker(chance) for _ in ways]
        # a dialogue has long pauses, reading has short ones
        pause_s, overlaps = chance.choice([0.3, 0.8, 2.0]), chance.random() < 0.3
        begins = chance.random() < 0.33
        length = samples + (4 * RATE if begins else 0)
        y, segments, at_s = np.zeros(length), [], min(4.0, chance.exponential(0.8))
        while at_s < length / RATE - 0.3:
            number = chance.integers(len(ways))
            pool, speed, level_db = talkers[number]
            piece = faster(pool[chance.integers(len(pool))], speed)
            x = piece.audio * 10 ** (-rms_db(spoken(piece.audio, piece.segments)) / 20)
            x = x * 10 ** ((level_db + chance.uniform(-4, 4)) / 20)
            x *= np.minimum(1, np.minimum(np.arange(len(x)), np.arange(len(x))[::-1]) / 160)
            if len(ways[number]) > 1:
                x = convolve(np.pad(x, (0, RATE // 2)), ways[number])
            start = round(at_s * RATE)
            y[start : start + len(x)] += x[: length - start]
            at_s = start / RATE
            segments += [(at_s + a, min(at_s + b, length / RATE)) for a, b in piece.segments]
            overlapping = overlaps and chance.random() < 0.4
            pause = -chance.uniform(0.2, 1.0) if overlapping else chance.exponential(pause_s)
            at_s += max(0.2, len(piece.audio) / RATE + min(6.0, pause))
        segments = merged([(a, b) for a, b in segments if b - a > 0.03])
        if not segments:
            return y[:samples], []
        first = 0.0
        if begins:
            low, high = segments[0]
            first = min(chance.uniform(low, high), (length - samples) / RATE)
        y = y[round(first * RATE) :][:samples]
        moved = [(max(0.0, a - first), min(b - first, samples / RATE)) for a, b in segments]
        segments = [(a, b) for a, b in moved if b - a > 0.03]
        if segments:
            y = y * 10 ** ((LEVEL_DB - rms_db(spoken(y, segments))) / 20)
        return y, segments

    def talker(self, chance: Chance) -> tuple[Sequence[Piece], float, float]:
        """The pieces of a source or of a speaker, a speed with its pitch, and a level."""
        shares = np.cumsum([share for share, _ in self.voices])
        pool = self.voices[int(np.searchsorted(shares, chance.random() * shares[-1]))][1]
        if chance.random() < 0.5:
            speaker = pool[chance.integers(len(pool))].speaker
            pool = [piece for piece in pool if piece.speaker == speaker]
        speed = chance.uniform(0.82, 1.3) if chance.random() < 0.5 else 1.0
        return pool, speed, -chance.choice([3, 8, 15]) * chance.random()

    def ways(self, chance: Chance, count: int) -> list[Sound]:
        """The impulse responses of so many talkers in one room; `[1]` without a room."""
        kind = chance.random()
        if kind < 0.4:
            return [np.ones(1)] * count
        if kind < 0.65:
            responses = self.meetings[chance.integers(len(self.meetings))]
            return [responses[chance.integers(len(responses))] for _ in range(count)]
        if kind < 0.8:
            return [self.rooms[chance.integers(len(self.rooms))]] * count
        direct_db = chance.uniform(-8, 10)
        return [room(chance, direct_db + chance.uniform(-3, 3)) for _ in range(count)]

    def background(self, chance: Chance, samples: int) -> Sound:
        """Music, noise, a crowd, or two of them; RMS 1."""
        y = np.zeros(samples)
        for _ in range(chance.choice([1, 1, 2])):
            x = self.sound(chance, samples)
            y += x / (rms(x) + 1e-9) * 10 ** (-chance.uniform(0, 10) / 20)
        return y / (rms(y) + 1e-9)

    def sound(self, chance: Chance, samples: int) -> Sound:
        """A sound without speech, now and then at another speed or in a room."""
        kind = chance.random()
        if kind < 0.12:
            return self.crowd(chance, samples)
        if kind < 0.22:
            return coloured(chance, samples)
        if kind < 0.28:
            return music(chance, samples / RATE)[:samples]
        pool = self.music if kind < 0.62 else self.noise
        x = pool[chance.integers(len(pool))]
        start = chance.integers(0, max(1, len(x) - samples // 2))
        x = x[start : start + 2 * samples]
        if chance.random() < 0.5:
            x = soxr.resample(x, round(100 * chance.uniform(0.7, 1.4)), 100)
        x = np.resize(x, samples)
        if chance.random() < 0.25:
            x = convolve(x, self.ways(chance, 1)[0])
        return x

    def crowd(self, chance: Chance, samples: int) -> Sound:
        """A crowd of voices of all pools."""
        return crowd(
            chance,
            [piece.audio for _, pool in self.voices for piece in some(chance, pool)],
            samples,
        )

    def far(self, chance: Chance, samples: int) -> Sound:
        """A conversation in another room."""
        y, _ = self.conversation(chance, samples)
        return convolve(y, room(chance, -12.0))

    def add_events(self, chance: Chance, y: Sound) -> None:
        """Clicks, or sounds of 0.1 to 2 s about as loud as speech: a door, a horn, a note."""
        if chance.random() < 0.3:
            y += clicks(chance, len(y)) * 10 ** ((LEVEL_DB + chance.uniform(-15, 25)) / 20)
        for _ in range(chance.integers(1, 6)):
            pool = self.noise if chance.random() < 0.7 else self.music
            x = pool[chance.integers(len(pool))]
            length = min(len(x), len(y), round(chance.uniform(0.1, 2) * RATE))
            start = chance.integers(0, len(x) - length + 1)
            x = x[start : start + length]
            at = chance.integers(0, len(y) - length + 1)
            level_db = LEVEL_DB + chance.uniform(-25, 8)
            y[at : at + length] += (
                x / (rms(x) + 1e-9) * 10 ** (level_db / 20) * np.hanning(length) ** 0.2
            )


def channel(chance: Chance, y: Sound) -> Sound:
    """Half of the scenes go through a telephone, another codec, a band or a faulty recorder."""
    if chance.random() < 0.1:
        y = y + hum(chance, len(y)) * 10 ** ((LEVEL_DB - chance.uniform(0, 40)) / 20)
    if chance.random() < 0.12:
        y = stepped(y, chance, chance.uniform(3, 25), chance.uniform(1, 5))
    if chance.random() < 0.08:
        y = clipped(y, chance.uniform(3, 20))
    if chance.random() < 0.08:
        y = offset(y, chance.uniform(-0.15, 0.15))
    kind = chance.random()
    if kind < 0.12:
        y = sampled(y, int(chance.choice([8000, 8000, 11025, 12000])))
    elif kind < 0.2:
        y = band(y, chance.uniform(50, 400), chance.uniform(2500, 7000))
    elif kind < 0.3:
        y = mulaw(y)
    elif kind < 0.38:
        y = gsm(y)
    elif kind < 0.5:
        y = opus(y, chance.uniform(6, 32), int(chance.choice([8000, 16000])))
    return y


def some(chance: Chance, pool: Sequence[Piece]) -> list[Piece]:
    return [pool[index] for index in chance.integers(0, len(pool), 12)]


def faster(piece: Piece, factor: float) -> Piece:
    """The piece at another speed and pitch: other speakers, in effect."""
    if factor == 1:
        return piece
    audio = soxr.resample(piece.audio, round(100 * factor), 100)
    stretch = len(audio) / len(piece.audio)
    segments = [(a * stretch, b * stretch) for a, b in piece.segments]
    return replace(piece, audio=audio, segments=segments)
