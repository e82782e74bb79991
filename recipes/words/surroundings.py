"""Puts other sound around a word: silence, noise, music, speech; a room; a telephone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import corpora
import numpy as np
from numpy.typing import NDArray

from speechkit.data import Utterance, read_audio

RATE = 8000
"""The sample rate of all recordings that training reads, and of the nets."""
KINDS = ("plain", "plain", "tight", "silence", "floor", "noise", "noise", "words")
"""The kinds of sound around a word; a kind that is here twice is twice as frequent."""
PIECE_S = (0.6, 1.6)
"""The shortest and longest piece of a long recording."""
SHORTEST_S = 0.3
SPAN_S = (0.05, 1.3)
"""The shortest and longest sound before and after a word."""
GAP = round(0.06 * RATE)
"""Samples between a word and its neighbours."""
ROOM_SHARE = LINE_SHARE = 0.25
"""The shares of scenes in a room and over a telephone."""

Sound = NDArray[np.float64]
Chance = np.random.Generator


@dataclass(frozen=True)
class Surroundings:
    """The sounds of one part that can be around words: noise and music, other speech, rooms."""

    noise: list[Sound]
    talk: list[Sound]
    rooms: list[Sound]
    span_s: tuple[float, float] = SPAN_S
    snr_db: tuple[float, float] = (3.0, 25.0)

    def scene(self, word: Sound, chance: Chance) -> Sound:
        """A word with sound of any kind around it, perhaps in a room or over a telephone.

        Shape: `[N]` → `[M]`.
        """
        return self.channel(self.around(word, chance, str(chance.choice(KINDS))), chance)

    def channel(self, x: Sound, chance: Chance) -> Sound:
        """The sound, perhaps in a room or over a telephone. Shape: `[N]` → `[N]`."""
        if self.rooms and chance.random() < ROOM_SHARE:
            x = reverberate(x, pick(self.rooms, chance))
        return telephone(x, chance) if chance.random() < LINE_SHARE else x

    def around(self, word: Sound, chance: Chance, kind: str) -> Sound:
        """The word with one kind of sound before and after it."""
        if kind == "plain":
            return word
        x = trimmed(word)
        if kind == "tight":
            return x
        before, after = (round(chance.uniform(*self.span_s) * RATE) for _ in range(2))
        y = np.pad(x, (before, after))
        if kind == "words":
            y[: max(0, before - GAP)] += self.neighbour(x, before - GAP, chance)
            y[before + len(x) + GAP :] += self.neighbour(x, after - GAP, chance)
        elif kind == "floor":
            y += chance.standard_normal(len(y)) * rms(x) * 10 ** (-chance.uniform(15, 40) / 20)
        elif kind == "noise" and self.noise:
            bed = cut(pick(self.noise, chance), len(y), chance)
            y += bed * rms(x) / (rms(bed) + 1e-9) * 10 ** (-chance.uniform(*self.snr_db) / 20)
        return y

    def neighbour(self, x: Sound, samples: int, chance: Chance) -> Sound:
        """Speech of another recording, at the word's level or up to 10 dB below."""
        if samples <= 0 or not self.talk:
            return np.zeros(max(0, samples))
        other = cut(pick(self.talk, chance), samples, chance)
        return other * rms(x) / (rms(other) + 1e-9) * 10 ** (chance.uniform(-10, 0) / 20)


def surroundings(source: Path, part: str, chance: Chance) -> Surroundings:
    """All noise, other speech and rooms of a part; recordings are cut into pieces."""
    noise = [clip for where, _, clip in corpora.noise(source) if where == part]
    talk = [clip for where, clip in corpora.talk(source) if where == part]
    rooms = [path for where, path in corpora.rooms(source) if where == part]
    return Surroundings(
        noise=list(seconds(noise, chance)),
        talk=[x for x in seconds(talk, chance) if rms(x) > 0.003],
        rooms=[sound(corpora.clip_of(path)) for path in rooms],
    )


def seconds(recordings: Iterable[Utterance], chance: Chance) -> Iterator[Sound]:
    """Pieces of PIECE_S; those much quieter than their recording are left out."""
    for recording in recordings:
        x = sound(recording)
        at = 0
        while len(x) - at >= SHORTEST_S * RATE:
            samples = round(chance.uniform(*PIECE_S) * RATE)
            if rms(x[at : at + samples]) > 0.25 * rms(x):
                yield x[at : at + samples]
            at += samples


def sound(clip: Utterance) -> Sound:
    x = read_audio(clip.audio, target_rate=RATE, offset_s=clip.offset_s, duration_s=clip.duration_s)
    return x.numpy().astype(np.float64)


def trimmed(x: Sound, below_db: float = 35.0, margin_s: float = 0.06) -> Sound:
    """The part of a recording with the word: from the first to the last loud frame.

    The level is that of the difference of neighbouring samples; in it an s is as loud as a vowel.
    """
    size = RATE // 100
    frames = (len(x) - 1) // size
    if frames < 10:
        return x
    power = np.square(np.diff(x)[: frames * size]).reshape(frames, size).mean(1) + 1e-12
    level_db = 10 * np.log10(power)
    # near the peak, and above the recording's own floor
    least_db = max(level_db.max() - below_db, np.percentile(level_db, 10) + 6)
    loud = np.flatnonzero(level_db >= min(least_db, level_db.max()))
    margin = round(margin_s * RATE)
    return x[max(0, loud[0] * size - margin) : (loud[-1] + 1) * size + margin]


def cut(x: Sound, samples: int, chance: Chance) -> Sound:
    """A random part of a recording, which is repeated if it is too short."""
    x = np.tile(x, -(-samples // max(1, len(x))))
    start = chance.integers(0, len(x) - samples + 1)
    return x[start : start + samples]


def reverberate(x: Sound, room: Sound) -> Sound:
    """Convolution with an impulse response, from the direct sound on, at the level of x."""
    size = 1 << (len(x) + len(room)).bit_length()
    y = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(room, size), size)
    y = y[np.abs(room).argmax() :][: len(x)]
    return y * rms(x) / (rms(y) + 1e-9)


def telephone(x: Sound, chance: Chance) -> Sound:
    """A telephone: about 300 to 3,400 Hz, 8 bits of mu-law, peaks 3 to 20 dB below full scale."""
    spectrum = np.fft.rfft(x)
    hz = np.fft.rfftfreq(len(x), 1 / RATE)
    spectrum *= (hz > chance.uniform(200, 350)) & (hz < chance.uniform(3100, 3500))
    y = np.fft.irfft(spectrum, len(x))
    y *= 10 ** (-chance.uniform(3, 20) / 20) / (np.abs(y).max() + 1e-9)
    code = np.round(np.sign(y) * np.log1p(255 * np.abs(y)) / np.log(256) * 127) / 127
    z: Sound = np.sign(code) * np.expm1(np.abs(code) * np.log(256)) / 255
    return z


def rms(x: Sound) -> float:
    return float(np.sqrt(np.square(x).mean())) if len(x) else 0.0


def pick(sounds: list[Sound], chance: Chance) -> Sound:
    return sounds[chance.integers(len(sounds))]
