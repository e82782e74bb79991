"""The harmonics that an activation adds to a tone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Chunk, Taps, as_layer
from speechkit.probes import Examples
from speechkit.probes.codes import activations


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
    layer = as_layer(activation.double())
    return _lines(layer, 1, amplitude, cycles, frames, count)


def activation_spectrum(count: int = 6) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: what each activation of the model makes of a tone as strong as its inputs.

    The tone has the mean power of the activation's inputs over valid frames. For each activation,
    in the order of the net, the mean over channels:

        rms        the root of that mean power
        harmonics  the amplitudes of 0, f, 2f … count · f, divided by that of the tone `[layers,
                   count + 1]`; for ReLU 0.318, 0.5, 0.212, 0, 0.042 …
        constant   the first of them: what a mean over time reads of a tone
        even       the power of 2f, 4f … / that of all harmonics above f

    Kechris et al., arXiv:2407.16556. ComponentError without an activation that keeps the width.
    """
    if not 2 <= count <= 100:
        raise ComponentError(f"probe activation_spectrum: count={count}; give 2 to 100")

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        channels: dict[str, int] = {}
        with Taps(activations(model)) as taps:
            for _, features in examples:
                model.score(features)
                for name, _, (c,), y in taps.take():
                    if c.x.shape == y.x.shape:
                        x = c.x.transpose(1, 2)[c.valid].double()
                        part = torch.stack([x.square().sum(), torch.tensor(x.numel()).to(x)])
                        sums[name] = sums.get(name, torch.zeros_like(part)) + part
                        channels[name] = c.x.shape[1]
        if not sums:
            raise ComponentError(
                "probe activation_spectrum: the model has no activation that keeps the number of "
                "channels"
            )
        powers = {name: (power / number).item() for name, (power, number) in sums.items()}
        layers = dict(model.named_modules())
        rows = []
        for name, power in powers.items():
            amplitude = (2 * power) ** 0.5
            lines = _lines(layers[name].double(), channels[name], amplitude, 16, 4096, count)
            rows.append(lines / max(amplitude, 1e-12))
        found = torch.stack(rows)
        above = found[:, 2:].square()
        return {
            "rms": torch.tensor(list(powers.values())).sqrt(),
            "harmonics": found,
            "constant": found[:, 0],
            "even": above[:, ::2].sum(1) / above.sum(1).clamp(min=1e-30),
        }

    return look


def _lines(
    layer: nn.Module, channels: int, amplitude: float, cycles: int, frames: int, count: int
) -> Tensor:
    """The amplitudes of the harmonics behind a layer, the mean over channels, `[count + 1]`."""
    phase = 2 * torch.pi * cycles * torch.arange(frames, dtype=torch.float64) / frames
    tone = (amplitude * phase.cos()).to(next(layer.parameters(), phase).device)
    with torch.no_grad():
        c = layer(Chunk.of(tone.expand(1, channels, -1)))
    lines = torch.fft.rfft(c.x[0]).abs().mean(0).cpu() / frames
    strength: Tensor = 2 * lines[: (count + 1) * cycles : cycles]
    strength[0] /= 2
    return strength
