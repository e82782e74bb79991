"""Helpers to check that a layer streams correctly."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle

import torch
from torch import Tensor, nn

from speechkit.nn import Chunk, State, StreamLayer, cat_time


def stream(layer: StreamLayer, c: Chunk, chunks: Iterable[int]) -> Chunk:
    """The output of `layer` for `c` in steps, aligned with that of `layer(c)`.

    `chunks` are numbers of strides per step, repeated without end. All invalid frames, flush frames
    included, hold NaN, so that a layer which reads them is detected.
    """
    x, valid = c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid
    frames = x.shape[2]
    blocks = -(-frames // layer.stride) + -(-layer.delay // layer.rate)
    padding = blocks * layer.stride - frames
    x = cat_time([x, x.new_full((*x.shape[:2], padding), torch.nan)])
    valid = torch.cat([valid, valid.new_zeros(x.shape[0], padding)], dim=1)
    state = layer.init_state(x.shape[0], x.shape[1], x.dtype, x.device)
    outputs = []
    for start, end in _spans(x.shape[2], layer.stride, chunks):
        part = x[:, :, start:end].transpose(1, 2).contiguous().transpose(1, 2)
        out, after = layer.step(Chunk(part, valid[:, start:end]), state)
        _check_state(state, after)
        state = after
        outputs.append(out)
    y = cat_time([out.x for out in outputs])[:, :, layer.delay :]
    return Chunk(y, torch.cat([out.valid for out in outputs], dim=1)[:, layer.delay :])


def check_stream(
    layer: StreamLayer,
    x: Tensor,
    lengths: Tensor | None = None,
    chunks: Sequence[int | Sequence[int]] = (1, 2, 8, 50),
    rtol: float = 1e-12,
) -> None:
    """Raises AssertionError unless steps equal forward at every valid frame, for every chunking.

    x `[B, C, T]`; each of `chunks` is a number of strides per step or a sequence of them. `rtol` is
    relative to the largest valid output; 0 asks for the same bits.
    """
    c = Chunk.of(x.transpose(1, 2).contiguous().transpose(1, 2), lengths)
    c = Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid)
    with torch.no_grad():
        expected = layer(c)
        for schedule in chunks:
            sizes = [schedule] if isinstance(schedule, int) else schedule
            got = stream(layer, c, sizes)
            frames = expected.x.shape[2]
            name = f"{type(layer).__name__} in chunks of {schedule}"
            assert got.x.shape[2] >= frames, f"{name}: {got.x.shape[2]} of {frames} frames came out"
            assert not got.valid[:, frames:].any(), f"{name}: valid frames after the end"
            assert torch.equal(got.valid[:, :frames], expected.valid), f"{name}: valid differs"
            assert_close(
                name, expected.masked, Chunk(got.x[:, :, :frames], expected.valid).masked, rtol
            )


def assert_close(name: str, expected: Tensor, actual: Tensor, rtol: float) -> None:
    """Raises AssertionError unless |actual − expected| ≤ rtol · max |expected|; NaN never passes.

    `rtol` 0 asks for equal bits.
    """
    assert expected.shape == actual.shape, f"{name}: shape {actual.shape}, not {expected.shape}"
    for side, value in (("expected", expected), ("actual", actual)):
        assert torch.isfinite(value).all(), f"{name}: {side} holds NaN or infinity"
    if not expected.numel():
        return
    scale = expected.abs().max().item()
    worst = (actual - expected).abs().max().item()
    assert worst <= rtol * scale, f"{name}: differs by {worst:.3g} where the largest is {scale:.3g}"


def dyadic_(module: nn.Module, seed: int = 0) -> nn.Module:
    """Sets weights to small integers and scales to powers of two, so that every order of summation
    gives the same float and streams can be compared with `torch.equal`; feed it integers.

    Weights are mostly zero, which keeps sums small enough to be exact through many layers.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        with torch.no_grad():
            if name.endswith("running_var"):
                # variance + eps is exactly 1, and so is its rsqrt
                owner = module.get_submodule(name.rpartition(".")[0])
                value.fill_(1.0 - getattr(owner, "eps", 0.0))
            elif value.ndim >= 2 and value.is_floating_point():
                value.copy_(_sparse_signs(value.shape, generator))
            elif name.endswith(("bias", "running_mean")):
                value.copy_(torch.randint(-1, 2, value.shape, generator=generator))
            elif value.is_floating_point():
                value.fill_(1.0)
    return module


def _sparse_signs(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Two entries of ±1 in each output row, zeros elsewhere."""
    rows = torch.zeros(shape[0], shape[1:].numel())
    where = torch.randint(rows.shape[1], (shape[0], 2), generator=generator)
    signs = torch.randint(0, 2, where.shape, generator=generator) * 2.0 - 1.0
    return rows.scatter_(1, where, signs).view(shape)


def _spans(frames: int, stride: int, chunks: Iterable[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for size in cycle(chunks):
        if start >= frames:
            return
        yield start, min(start + size * stride, frames)
        start += size * stride


def _check_state(before: State, after: State) -> None:
    if isinstance(before, Tensor):
        same = before.shape == after.shape and before.dtype == after.dtype
        assert same, (
            f"state changed from {before.shape} {before.dtype} to {after.shape} {after.dtype}"
        )
        return
    assert len(before) == len(after), f"state changed from {len(before)} to {len(after)} parts"
    for one, other in zip(before, after, strict=True):
        _check_state(one, other)
