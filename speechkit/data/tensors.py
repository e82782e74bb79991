"""Reads files, bytes, arrays and tensors as mono float32 tensors at one sample rate."""

import speechkit.torch_required

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from speechkit.data.audio import Source, read_sample_blocks, read_samples
from speechkit.data.pipes import RawFormat
from speechkit.data.samples import Channel


def read_audio(
    source: Source,
    sample_rate: int | None = None,
    target_rate: int = 16000,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> Tensor:
    """As `speechkit.data.audio.read_samples`. Shape: `[N]` float32."""
    return torch.from_numpy(
        read_samples(
            source, sample_rate, target_rate, offset_s, duration_s, channel=channel, raw=raw
        )
    )


def read_blocks(
    source: Source,
    sample_rate: int | None = None,
    target_rate: int = 16000,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    block_s: float = math.inf,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> Iterator[Tensor]:
    """As `speechkit.data.audio.read_sample_blocks`. Shape: `[N]` float32 for each block."""
    given = source, sample_rate, target_rate, offset_s, duration_s, block_s
    yield from map(torch.from_numpy, read_sample_blocks(*given, channel=channel, raw=raw))
