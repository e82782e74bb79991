"""Whole recordings: features of QuartzNet to log-probabilities."""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

import speechkit as sk
from benchmarks import ort, ov
from benchmarks.inputs import channels_last, noise
from benchmarks.nemo_net import nemo_net
from benchmarks.plain import plain_net
from benchmarks.registry import Absent, Benchmark, Contestant, Options, Run
from benchmarks.settled import settled
from speechkit.models import Model
from speechkit.nn import Chunk
from speechkit.ops.separable_conv import Precision

FRAMES, FRAME_S = 1000, 0.01
BF16, INT8 = 0.1, 0.3
"""The tolerance of scores with 8 bits of precision, and with 8 bits in total."""


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark(
            f"offline/{size}-{batch}",
            f"QuartzNet {size}, {batch} × {FRAMES * FRAME_S:g} s as features",
            (
                Contestant("plain conv1d", partial(plain, size, batch)),
                Contestant("torch.compile", partial(compiled, size, batch, options)),
                Contestant("onnxruntime", partial(onnxruntime, size, batch)),
                Contestant("OpenVINO", partial(openvino, size, batch)),
                Contestant("OpenVINO bfloat16", partial(openvino, size, batch, "bfloat16"), BF16),
                Contestant("NeMo", partial(nemo, size, batch)),
                Contestant("speechkit", partial(ours, size, batch)),
                Contestant("speechkit prepared", partial(prepared, size, batch)),
                Contestant("speechkit bfloat16", partial(prepared, size, batch, "bfloat16"), BF16),
                Contestant("speechkit int8", partial(prepared, size, batch, "int8"), INT8),
            ),
            audio_s=batch * FRAMES * FRAME_S,
        )
        for size in ("15x5", "5x5")
        for batch in (1, 8)
    ]


@lru_cache(maxsize=1)
def model_of(size: str) -> Model:
    return settled(sk.build(sk.QuartzNet(size=size), seed=0), noise(1, 64, FRAMES))


def plain(size: str, batch: int) -> Run:
    return inferring(plain_net(model_of(size)), noise(batch, 64, FRAMES))


def nemo(size: str, batch: int) -> Run:
    return inferring(nemo_net(model_of(size)), noise(batch, 64, FRAMES))


def compiled(size: str, batch: int, options: Options) -> Run:
    if not options.compile:
        raise Absent("it takes minutes; give --compile")
    return inferring(torch.compile(plain_net(model_of(size))), noise(batch, 64, FRAMES))


def inferring(net: Callable[[Tensor], Tensor], x: Tensor) -> Run:
    @torch.inference_mode()
    def run() -> Tensor:
        return net(x)

    return run


def onnxruntime(size: str, batch: int) -> Run:
    x = noise(batch, 64, FRAMES)
    session = ort.session(ort.exported(plain_net(model_of(size)), (x,)))
    fed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, fed)[0])


def openvino(size: str, batch: int, precision: Precision = "float32") -> Run:
    x = noise(batch, 64, FRAMES)
    request = ov.request(ort.exported(plain_net(model_of(size)), (x,)), precision)
    return lambda: torch.from_numpy(request.infer({0: x.numpy()})[0])


def prepared(size: str, batch: int, dtype: Precision = "float32") -> Run:
    return scoring(sk.prepare(model_of(size), dtype=dtype), batch)


def ours(size: str, batch: int) -> Run:
    return scoring(model_of(size), batch)


def scoring(model: Model, batch: int) -> Run:
    c = Chunk.of(channels_last(noise(batch, 64, FRAMES)))

    @torch.inference_mode()
    def run() -> Tensor:
        return model.score(c).scores

    return run
