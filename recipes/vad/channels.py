"""Changes of a recording: telephone bands, codecs, levels and faults of a recorder.

All functions take and return sound `[N]` at 16 kHz. They do not move it in time, so labels stay
valid.
"""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import soundfile
import soxr
from labels import RATE, Sound

Channel = Callable[[Sound], Sound]
PHONE_RATE, PHONE_HZ = 8000, (300.0, 3400.0)
EDGE = 1.1
"""Beyond the edge of a band the level falls to nothing, at this ratio of frequencies."""


def band(x: Sound, low_hz: float, high_hz: float) -> Sound:
    """The sound between two frequencies, without delay."""
    hz = np.fft.rfftfreq(len(x), 1 / RATE)
    gain = np.interp(hz, [low_hz / EDGE, low_hz, high_hz, high_hz * EDGE], [0, 1, 1, 0])
    y: Sound = np.fft.irfft(np.fft.rfft(x) * gain, len(x))
    return y


def sampled(x: Sound, rate: int) -> Sound:
    """The sound converted to another sample rate and back to 16 kHz."""
    return fitted(soxr.resample(soxr.resample(x, RATE, rate), rate, RATE), len(x))


def coded(x: Sound, rate: int, form: str, codec: str, compression: float | None = None) -> Sound:
    """The sound through a codec of libsndfile at a sample rate, without the codec's delay.

    `compression` is libsndfile's, from 0 to 1; Opus has (1 − compression) · 250 + 6 kbit/s. The
    level is kept even where the sound is louder than full scale.
    """
    at_rate = soxr.resample(x, RATE, rate)
    scale = max(1.0, float(np.abs(at_rate).max(initial=0)) / 0.99)
    file = io.BytesIO()
    soundfile.write(file, at_rate / scale, rate, codec, format=form, compression_level=compression)
    file.seek(0)
    heard, _ = soundfile.read(file)
    return fitted(soxr.resample(heard * scale, rate, RATE), len(x))


def opus(x: Sound, kbit_s: float, rate: int = RATE) -> Sound:
    """The sound through Opus, 6 to 256 kbit/s."""
    return coded(x, rate, "OGG", "OPUS", 1 - (kbit_s - 6) / 250)


def mulaw(x: Sound) -> Sound:
    """G.711, as on a telephone line: the telephone band at 8 kHz with 8 logarithmic bits."""
    return coded(band(x, *PHONE_HZ), PHONE_RATE, "WAV", "ULAW")


def gsm(x: Sound) -> Sound:
    """GSM 06.10 full rate, 13 kbit/s, in the telephone band."""
    return coded(band(x, *PHONE_HZ), PHONE_RATE, "WAV", "GSM610")


TELEPHONES: dict[str, Channel] = {
    "band": lambda x: band(x, *PHONE_HZ),
    "8khz": partial(sampled, rate=PHONE_RATE),
    "mulaw": mulaw,
    "gsm": gsm,
    "opus_6": partial(opus, kbit_s=6),
    "opus_16": partial(opus, kbit_s=16),
}


def clipped(x: Sound, over_db: float) -> Sound:
    """Samples above a level are cut to it. The peak of x is `over_db` above this level."""
    most = float(np.abs(x).max(initial=0)) * 10 ** (-over_db / 20)
    y: Sound = np.clip(x, -most, most)
    return y


def stepped(x: Sound, chance: np.random.Generator, most_db: float, every_s: float) -> Sound:
    """About every `every_s` the level jumps within 10 ms, to at most `most_db` up or down."""
    count = int(len(x) / RATE / every_s) + 1
    at = np.sort(chance.uniform(0, len(x), count - 1))
    gains_db = chance.uniform(-most_db, most_db, count)
    # each step is a ramp of 10 ms
    times = np.concatenate([[0], np.repeat(at, 2) + np.tile([0, 0.01 * RATE], count - 1)])
    gain_db = np.interp(np.arange(len(x)), times, np.repeat(gains_db, 2)[:-1])
    return x * 10 ** (gain_db / 20)


def offset(x: Sound, level: float) -> Sound:
    """The sound plus a constant, a share of full scale."""
    return x + level


def hum(chance: np.random.Generator, samples: int) -> Sound:
    """Mains hum of RMS 1: 50 or 60 Hz and its overtones, the odd ones stronger."""
    t = np.arange(samples) / RATE
    base_hz = chance.choice([50.0, 60.0]) * chance.uniform(0.999, 1.001)
    y: Sound = np.zeros(samples)
    for k in range(1, 20):
        level = chance.uniform(0.3, 1) / k ** (0.7 if k % 2 else 1.2)
        y += level * np.sin(2 * np.pi * (base_hz * k * t + chance.random()))
    y /= np.sqrt(np.square(y).mean())
    return y


def fitted(x: Sound, samples: int) -> Sound:
    """The first `samples` samples, with zeros at the end if there are fewer."""
    return np.pad(x[:samples], (0, max(0, samples - len(x))))
