"""The memory that training a stack of blocks needs, by torch's profiler.

`python -m speechkit_residuals.memory` prints it for stacks of 3 and 15 blocks.
"""

import torch
from torch.profiler import ProfilerActivity, profile

from speechkit.models import Block, QuartzNet
from speechkit.models.net import encoder_layers
from speechkit.nn import Chunk
from speechkit.plugins import registry

DESIGNS = {"serial": ("plain", "serial"), "reversible": ("reversible", "reversible")}


def peak_training_bytes(design: str, depth: int, channels: int = 32, frames: int = 1000) -> int:
    """Peak bytes that one training step of `depth` blocks allocates, without weights and input."""
    block, stack = DESIGNS[design]
    row = Block(channels=channels, kernel=11)
    config = QuartzNet(
        labels=("a",),
        blocks=(row, Block(channels=channels, kernel=11, residual=True, copies=depth)),
        block=block,
        stack=stack,
    )
    encoder = encoder_layers(config, channels, registry())[1]
    c = Chunk.of(torch.randn(2, frames, channels).transpose(1, 2).requires_grad_())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        encoder(c).x.square().sum().backward()
    assert prof.profiler is not None
    events = prof.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def main() -> None:
    for design in DESIGNS:
        few, many = (peak_training_bytes(design, depth) for depth in (3, 15))
        print(
            f"{design}: 3 blocks {few / 1e6:.1f} MB, 15 blocks {many / 1e6:.1f} MB, "
            f"{many / few:.2f} times as much"
        )


if __name__ == "__main__":
    main()
