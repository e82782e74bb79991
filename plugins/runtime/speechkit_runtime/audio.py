"""Reads a file as mono float32 audio at one sample rate."""

import io
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechkit_runtime.containers import contents
from speechkit_runtime.errors import RuntimeFailure
from speechkit_runtime.limits import (
    HIGHEST_RATE,
    LOWEST_RATE,
    MAX_FRAMES,
    MAX_FRAMES_PER_BYTE,
    MAX_PIPED_BYTES,
)

BLOCK_FRAMES = 2**18
"""The samples decoded at a time, so that a wrong length in a header needs no memory."""


def read_audio(path: str | os.PathLike[str], sample_rate: int) -> NDArray[np.float32]:
    """The audio of a file, or of standard input for `-`, in [-1, 1] at `sample_rate` hertz.

    Float32 `[N]`; two channels are averaged. It is read to its end, even if its header gives
    another length; a UserWarning is given if that is longer.
    """
    blocks: list[NDArray[np.float32]] = []
    rate = sample_rate
    try:
        with _open(path) as stream:
            size_bytes = stream.seek(0, io.SEEK_END)
            found = contents(stream)
            for part in found.parts:
                with soundfile.SoundFile(part) as file:
                    if file.samplerate != rate and blocks:
                        raise RuntimeFailure(f"{path} changes its rate; split it where it changes")
                    rate = file.samplerate
                    _check(file, path, size_bytes)
                    blocks += _blocks(file, path)
    except (OSError, soundfile.SoundFileError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise RuntimeFailure(f"cannot read {path}: {reason}; give a sound file") from error
    if found.fault:
        warnings.warn(f"{path} {found.fault}; copy it again", stacklevel=2)
    mono = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not len(mono):
        raise RuntimeFailure(f"{path} holds no sound; give at least one sample")
    if not np.isfinite(mono).all():
        raise RuntimeFailure(f"{path} contains NaN or infinity; repair it or leave it out")
    if rate != sample_rate:
        # imported here, since most files are at the model's rate
        import soxr

        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    return np.clip(mono, -1, 1)


def _open(path: str | os.PathLike[str]) -> AbstractContextManager[BinaryIO]:
    """The bytes of a regular file, or all of standard input's."""
    if os.fspath(path) == "-":
        data = sys.stdin.buffer.read(MAX_PIPED_BYTES + 1)
        if len(data) > MAX_PIPED_BYTES:
            raise RuntimeFailure(
                f"standard input has more than {MAX_PIPED_BYTES} bytes; give a file"
            )
        return io.BytesIO(data)
    mode = os.stat(path).st_mode
    # opening a pipe or a device could block for ever
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise RuntimeFailure(f"{path} is not a regular file; give a sound file, or - and pipe it")
    return open(path, "rb")


def _check(file: soundfile.SoundFile, path: str | os.PathLike[str], size_bytes: int) -> None:
    """Raises RuntimeFailure for impossible values in a header, before memory is allocated."""
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        raise RuntimeFailure(
            f"{path} is at {file.samplerate} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE}; check "
            "its rate"
        )
    if file.channels > 2:
        raise RuntimeFailure(
            f"{path} has {file.channels} channels, expected 1 or 2; pick one first"
        )
    if file.frames > min(MAX_FRAMES, size_bytes * MAX_FRAMES_PER_BYTE):
        raise RuntimeFailure(
            f"{path} promises {file.frames} samples, more than its {size_bytes} bytes can hold or "
            f"than {MAX_FRAMES}; copy it again or split it"
        )


def _blocks(
    file: soundfile.SoundFile, path: str | os.PathLike[str]
) -> Iterator[NDArray[np.float32]]:
    """The mean of its channels `[N]`, block by block."""
    left = file.frames
    while left:
        x = file.read(min(left, BLOCK_FRAMES), dtype="float32", always_2d=True)
        if not len(x):
            promised_s, read_s = (n / file.samplerate for n in (file.frames, file.frames - left))
            warnings.warn(
                f"{path} is cut short: it promises {promised_s:g} s and ends at {read_s:g} s",
                stacklevel=3,
            )
            return
        left -= len(x)
        yield x.mean(axis=1)
