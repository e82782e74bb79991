"""The arithmetic and the time of each kind of layer of a prepared QuartzNet, batch 1, one thread.

python -m benchmarks.layers [15x5 | 5x5] [float32 | bfloat16 | int8]
"""

import sys
import time
from collections import defaultdict
from typing import Any

import torch

import speechkit as sk
from benchmarks.offline import model_of, scoring
from benchmarks.report import load, processor
from speechkit.nn import SeparableConv
from speechkit.ops.separable_conv import Shape
from speechkit.train.memory import keep_freed_memory

ROUNDS = 9


@torch.inference_mode()
def cost(layer: SeparableConv, given: tuple[Any, ...]) -> tuple[float, float]:
    """The least processor time of a call in seconds, and its floating-point operations."""
    times = []
    for _ in range(ROUNDS):
        begun_s = time.process_time()
        y = layer(*given)
        times.append(time.process_time() - begun_s)
    shape: Shape = layer.packed.shape
    batch, _, frames = y.x.shape
    return min(times), 2.0 * batch * frames * shape.c_in * (shape.c_out + shape.taps)


def main(size: str = "15x5", dtype: Any = "float32") -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    model = sk.prepare(model_of(size), dtype=dtype)
    calls: list[tuple[SeparableConv, tuple[Any, ...]]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: calls.append((layer, given)))
        for layer in model.modules()
        if isinstance(layer, SeparableConv)
    ]
    scoring(model, 1)()
    for hook in hooks:
        hook.remove()
    kinds: dict[tuple[int, int, int], list[tuple[float, float]]] = defaultdict(list)
    for layer, given in calls:
        shape = layer.packed.shape
        kinds[shape.c_in, shape.c_out, shape.taps].append(cost(layer, given))
    kinds[0, 0, 0] = [found for each in kinds.values() for found in each]
    print(f"{processor()}, QuartzNet {size}, {dtype}, load {load()[0]}")
    print("channels     taps  layers  GFLOP      ms  GFLOP/s")
    for (c_in, c_out, taps), found in kinds.items():
        seconds, flop = (sum(each) for each in zip(*found, strict=True))
        name = f"{c_in:4} → {c_out:4} {taps:5}" if c_in else "together         "
        rate = f"{flop / 1e9:6.2f} {1000 * seconds:7.2f} {flop / seconds / 1e9:8.1f}"
        print(f"{name} {len(found):7} {rate}")


if __name__ == "__main__":
    main(*sys.argv[1:])
