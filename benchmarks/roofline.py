"""Calculates the memory traffic and the operations of a step, and the least time on a GPU.

python -m benchmarks.roofline
"""

from dataclasses import dataclass

import torch

from benchmarks.aot import FRAMES, NETS, SESSIONS, layers, plan
from speechkit.ops.activation import NONE
from speechkit.ops.separable_conv import Shape
from speechkit.ops.separable_conv.triton import tiling
from speechkit.streaming.engines.cuda.ring_net import Memory


@dataclass(frozen=True)
class Card:
    """Peaks from the data sheets: bytes/s, bfloat16 products and float32 sums in flop/s."""

    name: str
    bandwidth: float
    tensor: float
    vector: float


CARDS = (
    Card("A100 SXM 80 GB", 2.039e12, 312e12, 19.5e12),
    Card("H100 SXM", 3.35e12, 989e12, 67e12),
)


@dataclass(frozen=True)
class Cost:
    """Costs of one layer in a step: bytes of weights and of frames, products and sums in flop."""

    weights: float
    frames: float
    tensor: float
    vector: float

    def floor_s(self, card: Card) -> float:
        """The time of the slowest of the three, if the others overlap with it."""
        moved = (self.weights + self.frames) / card.bandwidth
        return max(moved, self.tensor / card.tensor, self.vector / card.vector)


def cost(shape: Shape, c_more: int, sessions: int, frames_out: int, size: int = 2) -> Cost:
    """A step of `frames_out` frames, in numbers of `size` bytes.

    The past frames of a convolution are read once; new frames are written once and read once.
    """
    rows = sessions * frames_out
    span = shape.dilation * (max(shape.taps, 1) - 1) + 1
    read = (span - shape.stride + frames_out * shape.stride) * shape.c_in
    moved = sessions * (read + frames_out * (shape.c_out + c_more))
    matrix = (shape.c_in + c_more) * shape.c_out
    return Cost(
        weights=size * matrix + 4 * (shape.taps * shape.c_in + shape.c_out),
        frames=size * moved,
        tensor=2.0 * rows * matrix,
        vector=2.0 * rows * shape.c_in * shape.taps,
    )


def costs(net: str, sessions: int, frames_out: int) -> list[Cost]:
    """The costs of each layer; layers before a stride have more frames."""
    found, frames = [], frames_out
    for shape, c_more in reversed(layers(net)):
        found.append(cost(shape, c_more, sessions, frames))
        frames *= shape.stride
    return found[::-1]


def launches(net: str, sessions: int, frames_out: int) -> tuple[int, int]:
    """The number of kernels of a step: with a kernel for each part, and with our fused kernels.

    The parts are: concatenation of past and new frames, filter, product, norm, activation; for a
    shortcut product, norm, delay and addition.
    """
    parts = ours = 0
    for shape, c_more in layers(net):
        parts += (2 if shape.taps else 0) + 2 + (shape.activation != NONE)
        parts += 4 if c_more else 0
        ours += 2 if tiling(sessions * frames_out, shape, True, torch.bfloat16).split else 1
    return parts, ours


def main() -> None:
    print("calculated, not measured; bfloat16 weights and frames, front end not counted")
    for net in NETS:
        frames_out = FRAMES[net]
        model = plan(net, "bfloat16", "torch")
        memory = Memory(model, 1, frames_out // model.rate, "meta")
        print(f"\n{net}, steps of {frames_out} frames, {memory.bytes_each:,} bytes a session")
        print(
            "sessions  weights MB  frames MB  tensor GFLOP  vector GFLOP  launches by parts, ours  "
            + "  ".join(f"floor µs {card.name}" for card in CARDS)
        )
        for sessions in SESSIONS:
            each = costs(net, sessions, frames_out)
            parts, ours = launches(net, sessions, frames_out)
            floors = [1e6 * sum(c.floor_s(card) for c in each) for card in CARDS]
            print(
                f"{sessions:8} {sum(c.weights for c in each) / 1e6:11.1f} "
                f"{sum(c.frames for c in each) / 1e6:10.1f} "
                f"{sum(c.tensor for c in each) / 1e9:13.2f} "
                f"{sum(c.vector for c in each) / 1e9:13.2f} {parts:19}, {ours:4}"
                + "".join(
                    f"{floor:{10 + len(c.name)}.1f}" for floor, c in zip(floors, CARDS, strict=True)
                )
            )


if __name__ == "__main__":
    main()
