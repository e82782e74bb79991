"""Sounds in which nobody says a word of AN4: their text is empty.

    python recipes/vad/sources.py data/sources FOLDER
    python recipes/an4/background.py data/an4 data/sources/train.jsonl

Reads the recordings of a manifest from recipes/vad/sources.py: music, noise, many voices at once,
and other languages. Adds stationary noise, dither and silence. Writes `background.jsonl`, half of
it without words, half with an utterance of AN4 among these sounds, and `noise.jsonl` for the
augmentation `noise`.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

import speechkit as sk
from speechkit.data import Utterance, read_audio, read_manifest, write_manifest
from speechkit.errors import ManifestError

RATE = 16000
SCENES = 2000
"""Of each sort: without words, and with an utterance."""
NOISES = 400
"""Recordings for the augmentation `noise`."""
SOUND_S = (2.0, 8.0)
AROUND_S = (0.5, 3.0)
"""Of other sound before an utterance, and after it."""
RECORDED_DB = (-50.0, -14.0)
MADE_DB = (-90.0, -20.0)
SNR_DB = (5.0, 30.0)
NARROW = 0.3
"""The share of scenes in a telephone's band."""
VOICES = {"untranscribed", "read", "word", "child", "language", "hand", "meeting", "room"}
"""Kinds that are no sound without words."""
FOREIGN = {"asterisk_i18n", "kerstin_de"}
"""Sources of other languages. Letters of other languages are left out: they sound like ours."""
CROWD = {"mini_librispeech", "librispeech_extra"}

Chance = np.random.Generator
Sound = NDArray[np.float32]


class Sounds:
    """Draws sounds without words, at RMS 1."""

    def __init__(self, recordings: Iterable[Utterance]) -> None:
        self.groups: dict[str, list[Utterance]] = defaultdict(list)
        self.crowd: list[Utterance] = []
        for found in recordings:
            source, _, kind = (found.label or "").partition(": ")
            if kind not in VOICES:
                self.groups[kind].append(found)
            elif source in FOREIGN:
                self.groups["foreign"].append(found)
            elif source in CROWD:
                self.crowd.append(found)
        if "music" not in self.groups:
            raise ManifestError("no music; give a manifest that recipes/vad/sources.py wrote")

    def recorded(self, chance: Chance, samples: int) -> Sound:
        """A part of a recording, repeated if it is too short; music a third of the time."""
        kinds = sorted(self.groups)
        kind = "music" if chance.random() < 0.33 else kinds[chance.integers(len(kinds))]
        found = self.groups[kind][chance.integers(len(self.groups[kind]))]
        return unit(part(chance, found, samples))

    def babble(self, chance: Chance, samples: int) -> Sound:
        """Six to twenty voices at once."""
        rows = chance.integers(len(self.crowd), size=chance.integers(6, 21))
        return unit(np.sum([unit(part(chance, self.crowd[n], samples)) for n in rows], axis=0))

    def drawn(self, chance: Chance, samples: int) -> Sound:
        """A sound of any sort, at its level."""
        sort = chance.random()
        if sort < 0.25:
            return made(chance, samples)
        if sort < 0.35 and self.crowd:
            x = self.babble(chance, samples)
        else:
            x = self.recorded(chance, samples)
        return x * np.float32(10 ** (chance.uniform(*RECORDED_DB) / 20))

    def scene(self, chance: Chance) -> Sound:
        """One sound, or one after another."""
        samples = round(chance.uniform(*SOUND_S) * RATE)
        x = self.drawn(chance, samples)
        if chance.random() < 0.4:
            at = chance.integers(samples // 4, 3 * samples // 4)
            x[at:] = self.drawn(chance, samples - at)
        return x

    def around(self, chance: Chance, speech: Sound) -> Sound:
        """An utterance among a sound that is softer by `SNR_DB`, and lasts longer on both sides."""
        before, after = (round(chance.uniform(*AROUND_S) * RATE) for _ in range(2))
        length = before + len(speech) + after
        x = self.babble if chance.random() < 0.1 and self.crowd else self.recorded
        other = x(chance, length) if chance.random() < 0.7 else unit(stationary(chance, length))
        level = rms(speech) * 10 ** (-chance.uniform(*SNR_DB) / 20)
        return np.pad(speech, (before, after)) + other * np.float32(level)


def part(chance: Chance, found: Utterance, samples: int) -> Sound:
    """A random part `[samples]` of a recording."""
    length_s = min(found.duration_s, samples / RATE)
    start_s = found.offset_s + chance.uniform(0, found.duration_s - length_s)
    x = read_audio(found.audio, target_rate=RATE, offset_s=start_s, duration_s=length_s)
    return np.resize(x.numpy(), samples)


def made(chance: Chance, samples: int) -> Sound:
    """Silence, dither of the last bit, or stationary noise, with or without an offset."""
    sort = chance.random()
    if sort < 0.1:
        return np.zeros(samples, np.float32)
    if sort < 0.25:
        x = chance.integers(-1, 2, samples) / 2**15
    else:
        x = stationary(chance, samples) * 10 ** (chance.uniform(*MADE_DB) / 20)
    offset = chance.uniform(-0.3, 0.3) if chance.random() < 0.2 else 0
    return (x + offset).astype(np.float32)


def stationary(chance: Chance, samples: int) -> Sound:
    """Noise of RMS 1 whose power falls by up to 9 dB an octave; white a third of the time."""
    x = chance.standard_normal(samples)
    if chance.random() < 0.67:
        hz = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20)
        x = np.fft.irfft(np.fft.rfft(x) * hz ** -chance.uniform(0, 1.5), samples)
    return unit(x.astype(np.float32))


def narrow(chance: Chance, x: Sound) -> Sound:
    """The sound in a telephone's band, without delay."""
    low, high = chance.uniform(0, 300), chance.uniform(3300, 4000)
    hz = np.fft.rfftfreq(len(x), 1 / RATE)
    gain = np.interp(hz, [0.9 * low, low, high, 1.1 * high], [0, 1, 1, 0])
    return np.fft.irfft(np.fft.rfft(x) * gain, len(x)).astype(np.float32)


def rms(x: Sound) -> float:
    return float(np.sqrt(np.square(x, dtype=np.float64).mean()))


def unit(x: Sound) -> Sound:
    """The sound at RMS 1."""
    return x / np.float32(rms(x) + 1e-9)


def background(an4: Path, recordings: Path, scenes: int = SCENES, seed: int = 0) -> list[Path]:
    """Writes `background.jsonl`, `noise.jsonl` and their audio."""
    chance, sounds = np.random.default_rng(seed), Sounds(read_manifest(recordings))
    own = read_manifest(an4 / "train.jsonl")
    for name in ("background", "noise"):
        (an4 / name).mkdir(exist_ok=True)
    rows = []
    for number in range(2 * scenes):
        if number % 2:
            said = own[chance.integers(len(own))]
            x = sounds.around(chance, read_audio(said.audio, target_rate=RATE).numpy())
            text, speaker = said.text or "", said.speaker
        else:
            x, text, speaker = sounds.scene(chance), "", None
        if chance.random() < NARROW:
            x = narrow(chance, x)
        path = an4 / "background" / f"{number:05}.flac"
        rows.append(written(x, path, text, speaker))
    noises = [
        written(0.1 * sounds.recorded(chance, 16 * RATE), an4 / "noise" / f"{number:05}.flac")
        for number in range(min(scenes, NOISES))
    ]
    for name, found in (("background", rows), ("noise", noises)):
        write_manifest(an4 / f"{name}.jsonl", found)
    return [an4 / "background.jsonl", an4 / "noise.jsonl"]


def written(x: Sound, path: Path, text: str = "", speaker: str | None = None) -> Utterance:
    soundfile.write(path, np.clip(x, -1, 1), RATE, "PCM_16")
    return Utterance(audio=path, duration_s=len(x) / RATE, text=text, speaker=speaker)


if __name__ == "__main__":
    sk.cli.prepare(lambda out, recordings: background(Path(out), Path(recordings)))
