"""Sound in: a file becomes mono float32 at one sample rate."""

import os

import numpy as np
import soundfile

from speechkit_runtime.errors import RuntimeFailure


def read_audio(path: str | os.PathLike[str], sample_rate: int) -> np.ndarray:
    """The sound of a file in [-1, 1] at `sample_rate` hertz, float32 `[N]`; two channels are
    averaged."""
    try:
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise RuntimeFailure(f"cannot read {path}: {reason}; give a sound file") from error
    if not len(x):
        raise RuntimeFailure(f"{path} holds no sound; give at least one sample")
    if x.shape[1] > 2:
        raise RuntimeFailure(f"{path} has {x.shape[1]} channels, expected 1 or 2; pick one first")
    if not np.isfinite(x).all():
        raise RuntimeFailure(f"{path} contains NaN or infinity; repair it or leave it out")
    mono = x.mean(axis=1)
    if rate != sample_rate:
        # imported here, since most files are at the model's rate
        import soxr

        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    return np.clip(mono, -1, 1)
