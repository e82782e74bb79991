"""The inputs of contestants: seeded noise, and speech."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.cli.demo import CLIPS
from speechkit.data import read_audio, read_manifest

SAMPLE_RATE = 16000
PAUSE_S = 0.4


def noise(*shape: int) -> Tensor:
    """The same standard normal numbers each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def channels_last(x: Tensor) -> Tensor:
    """`[B, C, T]` with the strides of a contiguous `[B, T, C]`, the layout of our layers."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def speech(duration_s: float) -> NDArray[np.float32]:
    """The bundled recordings with pauses between them, repeated, at 16 kHz `[N]`."""
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    clips = read_manifest(CLIPS)
    parts = [x for c in clips for x in (pause, read_audio(c.audio, None, SAMPLE_RATE).numpy())]
    return np.resize(np.concatenate(parts), round(duration_s * SAMPLE_RATE))
