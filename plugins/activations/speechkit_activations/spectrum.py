"""The harmonics that an activation adds to a tone."""

import torch
from torch import Tensor, nn

from speechkit.nn import Chunk, as_layer


def harmonics(
    activation: nn.Module,
    amplitude: float = 1.0,
    cycles: int = 16,
    frames: int = 4096,
    count: int = 8,
) -> Tensor:
    """The amplitudes of 0, f, 2f … count · f in activation(amplitude · cos 2π f t), `[count + 1]`.

    `activation` is built for one channel. f is `cycles` in `frames` frames, so that each harmonic
    is one bin of the Fourier transform. For ReLU they are A/π, A/2, 2A/(3π), 0, 2A/(15π) …: a
    constant (the mean over time), the tone, and even harmonics. Kechris et al., arXiv:2407.16556.
    """
    if (count + 0.5) * cycles >= frames / 2:
        raise ValueError(
            f"count={count}, cycles={cycles}, frames={frames}: give at least "
            f"{2 * (count + 1) * cycles} frames"
        )
    phase = 2 * torch.pi * cycles * torch.arange(frames, dtype=torch.float64) / frames
    with torch.no_grad():
        c = as_layer(activation.double())(Chunk.of((amplitude * phase.cos())[None, None]))
    lines = torch.fft.rfft(c.x[0, 0]) / frames
    strength: Tensor = 2 * lines.abs()[: (count + 1) * cycles : cycles]
    strength[0] /= 2
    return strength
