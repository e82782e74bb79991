"""Steps of many sessions on a CUDA GPU, compared with its limits: under five minutes.

    python -m benchmarks.cuda

The floor is that of `benchmarks.roofline`, with the bandwidth of a copy on this GPU.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch

import speechkit as sk
from benchmarks.aot import FRAMES, NETS, SESSIONS
from benchmarks.depthwise import BATCH, SHAPES
from benchmarks.depthwise import FRAMES as TRAINING_FRAMES
from benchmarks.inputs import channels_last, noise
from benchmarks.roofline import CARDS, Card, costs
from speechkit.ops.separable_conv import ActiveRows
from speechkit.ops.separable_conv import triton as kernels
from speechkit.streaming.engines.cuda.graphs import CudaQueue
from speechkit.streaming.engines.cuda.ring_net import Memory, RingConv, RingNet
from speechkit.testing import assert_close

RUNS, WARM = 50, 5


def timed_s(work: Callable[[], object]) -> float:
    """The median time of a run on the device, in seconds."""
    times: list[float] = []
    for _ in range(WARM + RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return median(times[WARM:])


def this_card() -> Card:
    """This GPU: the bandwidth is measured, the rest is from the data sheet of the nearest one."""
    x = torch.empty(2**29, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    bandwidth = 2 * x.numel() / timed_s(lambda: y.copy_(x))
    sheet = min(CARDS, key=lambda card: abs(card.bandwidth - bandwidth))
    return Card(torch.cuda.get_device_name(), bandwidth, sheet.tensor, sheet.vector)


def steps(name: str, card: Card) -> None:
    """Steps of a net: with the depthwise parts within the products, and apart from them."""
    layer = sk.build(NETS[name]).eval().cuda().stream_layer(window_s=0.63)
    net = RingNet(layer, precision="bfloat16")
    for sessions in SESSIONS:
        each = costs(name, sessions, FRAMES[name])
        floor_s = sum(cost.floor_s(card) for cost in each)
        moved = sum(cost.weights + cost.frames for cost in each)
        for how, many in (("fused", 1 << 30), ("split", 1)):
            kernels.MANY = many
            whole_s, layers_s = step_s(net, sessions, FRAMES[name] // layer.rate)
            print(
                f"{name:12} {sessions:8} {how} {1e6 * whole_s:12.1f} {1e6 * layers_s:10.1f} "
                f"{1e6 * floor_s:9.1f} {layers_s / floor_s:9.1f} {moved / layers_s / 1e9:8.0f}",
                flush=True,
            )


def step_s(net: RingNet, sessions: int, strides: int) -> tuple[float, float]:
    """The time of a step as a graph, and of its separable convolutions, which the floor counts."""
    memory = Memory(net, sessions, strides, "cuda")
    active = ActiveRows(torch.arange(sessions, device="cuda"), memory.counts, strides)
    x = noise(sessions, strides * net.stride).cuda() / 10
    real = torch.full((sessions,), x.shape[1], device="cuda")
    queue, convs = CudaQueue(x.device), [op for op in net.ops if isinstance(op, RingConv)]

    def layers() -> None:
        for op in convs:
            op(memory, active)

    whole = queue.capture(lambda: net.step(memory, active, x, real))
    with torch.inference_mode():
        part = queue.capture(layers)
    return timed_s(whole), timed_s(part)


def check() -> None:
    """Checks that the kernels' scores are those of the reference; otherwise nothing is timed."""
    layer = sk.build(NETS["marblenet"]).eval().cuda().stream_layer()
    x = noise(3, 40 * layer.stride).cuda() / 10
    found = []
    for impl in ("triton", "reference"):
        net = RingNet(layer, impl=impl)
        memory = Memory(net, 3, 40, "cuda")
        active = ActiveRows(torch.arange(3, device="cuda"), memory.counts, 40)
        y = net.step(memory, active, x, torch.full((3,), x.shape[1], device="cuda"))
        found.append(y.masked)
    assert_close("scores", found[1], found[0], 1e-4)


def training_s(channels: int, kernel: int, dilation: int, impl: str) -> float:
    """The time of the depthwise convolution, forward and backward."""
    half = dilation * (kernel - 1) // 2
    parts = noise(2 * BATCH, channels, TRAINING_FRAMES).chunk(2)
    x, gradient = (channels_last(part).cuda().bfloat16() for part in parts)
    weight = noise(channels, 1, kernel).cuda().requires_grad_()
    x.requires_grad_()

    def run() -> None:
        y = sk.ops.depthwise_conv(x, weight, dilation=dilation, padding=(half, half), impl=impl)
        torch.autograd.grad(y, (x, weight), gradient)

    return timed_s(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA card here; make triton-aot compiles without one")
    import triton

    card = this_card()
    print(f"{card.name}, torch {torch.__version__}, triton {triton.__version__}")
    print(f"copies at {card.bandwidth / 1e9:.0f} GB/s; bfloat16, medians of {RUNS} graph replays")
    check()
    print("\nnet          sessions how      step µs  layers µs  floor µs  of floor     GB/s")
    for name in NETS:
        steps(name, card)
    print("\ndepthwise, forward and backward, bfloat16, batch 8, 500 frames")
    print("    C    K   d  triton µs   torch µs")
    for shape in SHAPES:
        times = [1e6 * training_s(*shape, impl) for impl in ("triton", "torch")]
        print("{:5} {:4} {:3} {:10.1f} {:10.1f}".format(*shape, *times), flush=True)


if __name__ == "__main__":
    main()
