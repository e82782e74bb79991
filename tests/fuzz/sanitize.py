"""Random shapes for every C++ file, built with ASan and UBSan: `make sanitize`.

    python -m tests.fuzz.sanitize [SECONDS] [FIRST] [MARCH] [NAME]

Case N is the same in every run. Case FIRST comes first, so that a report can be had again. MARCH is
the processor to compile for. With a NAME such as plan_case, only cases of that kind run.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

import speechkit as sk
from speechkit.component import Spec
from speechkit.frontend import Resample
from speechkit.io.folders import PLAN
from speechkit.native import compiler
from speechkit.native.libraries import load
from speechkit.nn import Chunk, Serial
from speechkit.ops import Activation, batch_norm, depthwise_conv, linear, native
from speechkit.ops.separable_conv import PRECISIONS, Shape, pack
from speechkit.plans.plan import load_plan
from speechkit.plans.program import LoweringError
from speechkit.plugins import components
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.tasks.plans import plan_of
from speechkit.testing import assert_close

from . import plans

PACKAGE = Path(sk.__file__).parent
FLAGS = (
    *(flag for flag in compiler.FLAGS if flag != "-O3"),
    *("-O1", "-g", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
# python and torch keep what they have until they end, which is not ours to report; and gcc lays
# registers of 64 bytes askew on the stack that shows use after return
ASAN = "detect_leaks=0:detect_stack_use_after_return=0"
ACTIVATIONS = [
    *(Activation("x"), Activation("relu(x)"), Activation("min(max(x, -1), 0.5)")),
    *(Activation(f"{name}(x)") for name in ("sigmoid", "tanh", "gelu", "sin", "asinh")),
    Activation("log1p(abs(x))"),
    Activation("where(x < -1, -0.2, where(x < 0.5, 0.3 * x + 0.1 * x * x, x - 0.325))"),
]
PLANS = 100
"""The plans of one case."""
CLOSE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def tensor(chance: Random, *shape: int) -> Tensor:
    """Normal numbers in a block of memory of just this size."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(chance.getrandbits(32)))


def some(chance: Random, batch: int, frames: int) -> Tensor | None:
    """Which frames are valid, or None for all."""
    return None if chance.random() < 0.3 else tensor(chance, batch, frames) < 0.7


def depthwise_case(chance: Random) -> None:
    """The depthwise convolution and its gradients in each type."""
    dtype = chance.choice(list(CLOSE))
    batch, channels, taps = chance.randint(1, 3), chance.randint(1, 70), chance.randint(1, 40)
    stride, dilation = chance.randint(1, 3), chance.randint(1, 3)
    padding = chance.randint(0, 20), chance.randint(0, 20)
    frames = max(1, (taps - 1) * dilation + 1 - sum(padding)) + chance.randint(0, 300)
    x = tensor(chance, batch, frames, channels).to(dtype).transpose(1, 2).requires_grad_()
    weight = tensor(chance, channels, 1, taps)
    weight = weight.to(native.sum_type(dtype)).requires_grad_()
    around = stride, dilation, padding, some(chance, batch, frames)
    y = depthwise_conv(x, weight, *around, "cpu")
    exact = [value.detach().double().requires_grad_() for value in (x, weight)]
    expected = depthwise_conv(exact[0], exact[1], *around, "reference")
    dy = tensor(chance, *y.shape).to(dtype)
    compare(y, expected, dtype)
    for own, wanted in zip(
        torch.autograd.grad(y, (x, weight), dy),
        torch.autograd.grad(expected, exact, dy.double()),
        strict=True,
    ):
        compare(own, wanted, dtype)


def batch_norm_case(chance: Random) -> None:
    """Batch normalisation over valid rows and its gradients in each type."""
    dtype = chance.choice(list(CLOSE))
    rows, channels = chance.randint(1, 300), chance.randint(1, 140)
    x = tensor(chance, rows, channels).to(dtype).requires_grad_()
    weight, bias = (tensor(chance, channels).abs() + 0.5 for _ in range(2))
    valid = tensor(chance, rows) < 0.8
    more = tensor(chance, rows, channels).to(dtype) if chance.random() < 0.5 else None
    relu = chance.random() < 0.5
    given = weight.requires_grad_(), bias.requires_grad_()
    y, *_ = batch_norm(x, valid, *given, 1e-3, relu, more, "cpu")
    exact = [value.detach().double().requires_grad_() for value in (x, *given)]
    added = None if more is None else more.double()
    expected, *_ = batch_norm(exact[0], valid, exact[1], exact[2], 1e-3, relu, added, "torch")
    compare(y, expected, dtype)
    torch.autograd.grad(y.float().sum(), (x, *given))


def linear_case(chance: Random) -> None:
    """The matrix product of all frames, and its gradients."""
    shape = chance.randint(1, 3), chance.randint(64, 200)
    inputs, outputs = chance.randint(1, 150), chance.randint(1, 150)
    x = tensor(chance, *shape, inputs).requires_grad_()
    weight = tensor(chance, outputs, inputs).requires_grad_()
    bias = tensor(chance, outputs) if chance.random() < 0.7 else None
    y = linear(x, weight, bias, impl="cpu")
    exact = None if bias is None else bias.double()
    compare(y, torch.nn.functional.linear(x.double(), weight.double(), exact), torch.float32)
    torch.autograd.grad(y.sum(), (x, weight))


def separable_case(chance: Random) -> None:
    """The fused convolution with each activation and precision."""
    c_in, c_out = chance.randint(1, 70), chance.randint(1, 140)
    taps = chance.choice([0, chance.randint(1, 40)])
    around = (chance.randint(0, 20), chance.randint(0, 20)) if taps else (0, 0)
    stride, dilation = chance.randint(1, 3), chance.randint(1, 3) if taps else 1
    precision = chance.choice(PRECISIONS)
    # a bound would make the rounding of the lower precisions large beside what is left
    activation = chance.choice(ACTIVATIONS if precision == "float32" else ACTIVATIONS[:2])
    shape = Shape(c_in, c_out, taps, stride, dilation, around, activation, precision)
    batch = chance.randint(1, 3)
    frames = max(1, (max(taps, 1) - 1) * dilation + 1 - sum(around)) + chance.randint(0, 300)
    x = tensor(chance, batch, frames, c_in).transpose(1, 2)
    depthwise = tensor(chance, c_in, 1, taps) if taps else None
    weights = depthwise, tensor(chance, c_out, c_in), tensor(chance, c_out)
    valid = some(chance, batch, frames)
    more = tensor(chance, batch, shape.frames_out(frames), c_out).transpose(1, 2)
    residual = more if chance.random() < 0.5 else None
    y = pack(shape, *weights, "cpu")(x, valid, residual)
    exact = pack(replace(shape, precision="float32"), *weights, "reference")(x, valid, residual)
    error = {"float32": 2e-4, "bfloat16": 0.1, "int8": 0.3}[precision]
    assert_close("separable_conv", exact, y, error)


def step_case(chance: Random) -> None:
    """A net's native step against torch's, over blocks of a random size."""
    net = chance.choice(NETS)(chance)
    layer = sk.build(net).eval().stream_layer()
    rate = chance.choice([8000, 16000, 16000, 16000, 44100])
    if rate != net.sample_rate:
        layer = Serial(resample=Resample(rate, net.sample_rate), net=layer)
    block = chance.randint(1, 4) * layer.stride
    try:
        native_layer = NativeLayer(layer, block)
    except LoweringError:
        return
    sessions, blocks = chance.randint(1, 3), chance.randint(2, 12)
    x = tensor(chance, sessions, 1, blocks * block).clamp(-3, 3) / 4
    real = chance.randint(1, blocks * block)
    steps = native_layer, layer
    states = [one.init_state(sessions, 1) for one in steps]
    for start in range(0, blocks * block, block):
        valid = (torch.arange(start, start + block) < real).expand(sessions, -1)
        found = []
        for index, one in enumerate(steps):
            chunk = Chunk(x[:, :, start : start + block].contiguous(), valid)
            y, states[index] = one.step(chunk, states[index])
            found.append(y)
        assert torch.equal(found[0].valid, found[1].valid)
        kept = found[1].valid[0]
        assert_close("scores", found[1].x[:, :, kept], found[0].x[:, :, kept], 1e-3)


def chunks_case(chance: Random) -> None:
    """A session's events do not depend on how the sound is cut."""
    model = sk.build(chance.choice(NETS)(chance)).eval()
    rate = chance.choice([8000, 16000, 16000, 48000])
    x = tensor(chance, chance.randint(1, rate)).clamp(-3, 3) / 4
    whole, parts = (sk.stream(model, rate, max_latency_s=99) for _ in range(2))
    expected = [*whole.feed(x), *whole.finish()]
    found, at = [], 0
    while at < len(x):
        size = chance.choice([0, 1, chance.randint(1, 500), chance.randint(1, rate)])
        found += parts.feed(x[at : at + size].clone())
        at += size
    found += parts.finish()
    assert [what(event) for event in found] == [what(event) for event in expected]


def plan_case(chance: Random) -> None:
    """A hundred random and mutated plans: each is refused in a line, or runs."""
    seeds = [load_plan(path) for path in sorted((PACKAGE / "bundled").rglob(PLAN))]
    for make_net in (chance.choice(NETS), exchanged):
        with suppress(LoweringError):
            seeds.append(plan_of(sk.build(make_net(chance)).eval()))
    for _ in range(PLANS):
        make = plans.mutated if chance.random() < 0.8 else plans.random
        plans.run(make(chance.choice(seeds), chance), chance)


def what(event: object) -> object:
    """An event without the moment at which it was decided, which the cut may move."""
    return replace(event, decided_s=0.0) if hasattr(event, "decided_s") else event  # type: ignore


def blocks_of(chance: Random) -> tuple[sk.Block, ...]:
    """A random body of two to four blocks."""
    stem = sk.Block(channels=chance.randint(1, 40), kernel=chance.randint(1, 9), stride=2)
    kernels = [chance.choice([1, chance.randint(1, 12)]) for _ in range(chance.randint(1, 3))]
    rest = (
        sk.Block(
            channels=chance.randint(1, 70),
            kernel=kernel,
            repeat=chance.randint(1, 3),
            dilation=chance.randint(1, 3),
            residual=chance.random() < 0.5,
            separable=kernel > 1 or chance.random() < 0.5,
        )
        for kernel in kernels
    )
    return stem, *rest


def parts_of(chance: Random) -> dict[str, object]:
    """What the families' configs share, at random."""
    return {
        "blocks": blocks_of(chance),
        "frontend": f"log_mel:n_mels={chance.randint(1, 80)},normalize="
        + chance.choice(["fixed", "pcen", "none"]),
        "activation": chance.choice(["relu", "silu", "hardtanh:low=-1,high=2", "gelu"]),
        "norm": chance.choice(["batch", "none"]),
        "lookahead": chance.randint(0, 4),
    }


def exchanged(chance: Random) -> sk.MarbleNet:
    """A small net with another component of the core or of an installed plugin."""
    kind = chance.choice(EXCHANGED)
    entry = chance.choice([e for e in components(kind) if e.component.time != "utterance"])
    channels = 8 * chance.randint(1, 3)
    rest = sk.Block(channels=channels, kernel=chance.randint(1, 5), residual=True, copies=3)
    return sk.MarbleNet(
        frame_level=True,
        blocks=(sk.Block(channels=channels, kernel=3, stride=2), rest),
        frontend="log_mel:n_mels=24,normalize=running",
        lookahead=chance.randint(0, 4),
        **{kind: Spec(entry.qualified_name, dict(entry.component.example))},  # type: ignore[arg-type]
    )


def attentive(chance: Random) -> sk.MarbleNet:
    """A small net with attention, or one of its linear forms, in each block."""
    heads = chance.choice([1, 2, 4])
    window, weights = chance.randint(2, 70), ["softmax", "relu", "rela", "reluformer"]
    attention = {"weight": chance.choice(weights), "window": window, "qk_norm": False}
    forms: dict[str, dict[str, object]] = {
        "attention": attention,
        "retention": {"value_factor": chance.randint(1, 3)},
        "sla": {"taps": chance.randint(1, 9)},
        "lambda": {"keys": chance.randint(1, 20)},
    }
    name = chance.choice(list(forms))
    rest = sk.Block(
        channels=8 * chance.randint(1, 6),
        kernel=chance.randint(1, 9),
        repeat=chance.randint(1, 2),
        residual=chance.random() < 0.5,
        mixer=Spec(f"mixers/{name}", {"heads": heads, **forms[name]}),
    )
    parts = {**parts_of(chance), "blocks": (sk.Block(channels=8, kernel=3, stride=2), rest)}
    return sk.MarbleNet(frame_level=True, **parts)  # type: ignore[arg-type]


def in_blocks(chance: Random) -> sk.MarbleNet:
    """A small net of which a row computes in blocks of frames, with a memory between them."""
    window, heads = chance.randint(2, 40), chance.choice([1, 2, 4])
    reading = {
        "states": chance.randint(0, 20),
        "gate": chance.choice(["bias", "full", "lstm"]),
        "config": chance.choice(["skip", "dual", "single"]),
    }
    waiting = {
        "latents": chance.randint(1, 20),
        "latent_dim": 4 * chance.randint(1, 6),
        "blocks": chance.randint(1, 2),
        "carry": chance.random() < 0.7,
    }
    name, fields = chance.choice([("block_recurrent", reading), ("rin", waiting)])
    row = sk.Block(
        channels=8 * chance.randint(1, 6),
        kernel=1,
        block=Spec(f"mixers/{name}", {"window": window, "heads": heads, **fields}),
    )
    parts = {**parts_of(chance), "blocks": (sk.Block(channels=8, kernel=3, stride=2), row)}
    return sk.MarbleNet(frame_level=True, **parts)  # type: ignore[arg-type]


EXCHANGED = "activation", "norm", "channel", "mixer", "residual", "block", "stack", "stem"
"""The kinds of components that `exchanged` draws from."""
NETS: list[Callable[[Random], sk.QuartzNet | sk.MarbleNet]] = [
    lambda chance: sk.QuartzNet(**parts_of(chance)),  # type: ignore[arg-type]
    lambda chance: sk.MarbleNet(frame_level=True, **parts_of(chance)),  # type: ignore[arg-type]
    attentive,
    in_blocks,
]
CASES = (
    *(depthwise_case, batch_norm_case, linear_case, separable_case, step_case, chunks_case),
    plan_case,
)


def compare(own: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Fails where the difference is more than rounding in the type that was computed in."""
    assert_close(str(dtype), exact, own.double(), CLOSE[dtype])


def sanitized() -> None:
    """Starts this process anew with ASan's library before all others, as it must be."""
    # ASan looks for the C++ library's throw at its start
    libraries = (
        subprocess.run(
            ("g++", f"-print-file-name={name}"), check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    )
    more = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": ASAN}
    command = [sys.executable, "-m", "tests.fuzz.sanitize", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, **more})


def main(seconds: str = "60", first: str = "0", march: str = "native", name: str = "") -> None:
    """Runs cases until the time is over; the sanitizers end the process at a fault.

    `march` are the instructions to compile for: native, or fewer, such as x86-64-v3. With a `name`
    such as plan_case, only cases of that kind run.
    """
    cases = [case for case in CASES if case.__name__ == name] or CASES
    compiler.FLAGS, compiler.LONGEST_BUILD_S = FLAGS, 600
    compiler.THIS_PROCESSOR = f"-march={march}"
    started, case = time.monotonic(), int(first)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPEECHKIT_CACHE"] = folder
        for source in sorted(PACKAGE.rglob("*.cpp")):
            library = load(source)
            assert not isinstance(library, str), library
            print(f"built {source.relative_to(PACKAGE)}", flush=True)
        while time.monotonic() - started < int(seconds) or case < int(first) + len(cases):
            chance, run = Random(case), cases[case % len(cases)]
            print(f"\rcase {case} {run.__name__:20}", end="", flush=True)
            torch.set_num_threads(chance.choice([1, 1, 1, 3]))
            np.random.seed(case)
            torch.manual_seed(case)
            run(chance)
            case += 1
    print(f"\n{case - int(first)} cases in {time.monotonic() - started:.0f} s, no fault")


if __name__ == "__main__":
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        sanitized()
    main(*sys.argv[1:])
