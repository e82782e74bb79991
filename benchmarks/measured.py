"""Writes docs/measured.json, the costs of components: `make measure`, on an idle machine.

Microseconds of one call in evaluation and bytes kept for the backward pass per element, of a tensor
of 64 channels and 1000 frames in float32, with the parameters of the component's example.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from benchmarks.report import processor
from speechkit.nn import Chunk, as_layer
from speechkit.plugins import Entry, components

TARGET = Path(__file__).parents[1] / "docs" / "measured.json"
KINDS = ("activation", "norm")
CHANNELS, FRAMES, CALLS = 64, 1000, 100


def measured(entry: Entry) -> dict[str, float]:
    """Both figures of a component."""
    torch.manual_seed(0)
    made = entry.factory()(CHANNELS, **entry.component.example)
    layer = as_layer(made)
    channels = CHANNELS * entry.component.in_factor
    c = Chunk.of(torch.randn(1, FRAMES, channels).transpose(1, 2))
    layer.train()(c)
    return {"us": call_us(layer.eval(), c), "saved": saved_bytes(layer.train(), c)}


def call_us(layer: nn.Module, c: Chunk) -> float:
    """The median time of a call."""
    times_us = []
    with torch.inference_mode():
        for _ in range(CALLS):
            begun_s = perf_counter()
            layer(c)
            times_us.append(1e6 * (perf_counter() - begun_s))
    return round(median(times_us), 1)


def saved_bytes(layer: nn.Module, c: Chunk) -> float:
    """The bytes that autograd stores for a call per element of its output, without parameters."""
    own = {parameter.data_ptr() for parameter in layer.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if x.data_ptr() not in own:
            kept[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    x = c.x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        y = layer(Chunk(x, c.valid)).x
    each: float = round(sum(kept.values()) / y.numel(), 2)
    return each


if __name__ == "__main__":
    torch.set_num_threads(1)
    figures = {
        f"{entry.kind}:{entry.qualified_name}": measured(entry)
        for kind in KINDS
        for entry in components(kind)
    }
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "torch": torch.__version__,
    }
    TARGET.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
