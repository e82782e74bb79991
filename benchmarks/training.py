"""A step of training: forward, the mean of squares as the loss, backward."""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

import speechkit as sk
from benchmarks.inputs import channels_last, noise
from benchmarks.nemo_net import nemo_net
from benchmarks.plain import plain_net
from benchmarks.registry import Absent, Benchmark, Contestant, Options, Output, Run
from speechkit.models import Model
from speechkit.nn import Chunk
from speechkit.train.memory import keep_freed_memory

CONFIGS = {
    "quartznet-5x5": sk.QuartzNet(size="5x5"),
    "matchboxnet-3x1x64": sk.MatchboxNet(size="3x1x64", labels=tuple(map(str, range(30)))),
}
SHAPES = {"quartznet-5x5": (8, 64, 1000), "matchboxnet-3x1x64": (128, 64, 100)}
"""Batch, features and frames."""
FP32, BF16 = (1e-3, 0.05), (0.15, math.inf)
"""Tolerances of the scores and of the first layer's gradient. Rounding switches ReLUs on and off:
the gradient of plain torch in float32 differs by 1 % from that in float64. The tests compare ours
with float64."""


def benchmarks(options: Options) -> list[Benchmark]:
    # as `sk.fit` does, for all contestants
    keep_freed_memory()
    found = []
    for name, (batch, _, frames) in SHAPES.items():
        contestants = tuple(
            Contestant(f"{label}{suffix}", partial(step, build, name, half), tolerance)
            for half, suffix, tolerance in ((False, "", FP32), (True, ", bfloat16", BF16))
            for label, build in (("plain conv1d", plain), ("speechkit", ours), ("NeMo", nemo))
        )
        work = f"one step, batch {batch}, {frames} frames"
        found.append(Benchmark(f"training/{name}", work, contestants))
    return found


Forward = Callable[[], Tensor]


def step(build: Callable[[str, Tensor], tuple[nn.Module, Forward]], name: str, half: bool) -> Run:
    """A net's step; its output is the scores and the gradient of the first layer's weight."""
    net, forward = build(name, noise(*SHAPES[name]))
    weights = [p for p in net.parameters() if p.requires_grad]

    def run() -> Output:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            scores = forward()
        scores.float().square().mean().backward()
        gradient = weights[0].grad
        assert gradient is not None
        for weight in weights:
            weight.grad = None
        return scores.detach(), gradient

    if half:
        try:
            run()
        except RuntimeError as error:
            raise Absent(f"autocast: {str(error).splitlines()[0]}") from error
    return run


@lru_cache(maxsize=1)
def model_of(name: str) -> Model:
    return sk.build(CONFIGS[name], seed=0).train()


def plain(name: str, x: Tensor) -> tuple[nn.Module, Forward]:
    net = plain_net(model_of(name))
    return net, lambda: net(x)


def nemo(name: str, x: Tensor) -> tuple[nn.Module, Forward]:
    net = nemo_net(model_of(name))
    return net, lambda: net(x)


def ours(name: str, x: Tensor) -> tuple[nn.Module, Forward]:
    model = model_of(name)
    features = Chunk.of(channels_last(x))
    return model, lambda: model.score(features).scores
