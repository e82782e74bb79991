"""A helper to check that a layer's native step computes what the layer does."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.models import Net, build
from speechkit.nn import Chunk, Serial, StreamLayer
from speechkit.plans.timing import blocks_to_end
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.testing.stream import assert_close


def check_native(
    layer: StreamLayer,
    x: Tensor,
    lengths: Tensor | None = None,
    strides: tuple[int, ...] = (1, 3),
    rtol: float = 1e-5,
    in_torch: Sequence[str] = (),
) -> None:
    """Raises AssertionError unless native steps equal `forward` at every valid frame.

    x `[B, C, T]`; the layer is in float32 and evaluation, and its output in float64 is expected,
    within `rtol` of the largest value. `strides` are the numbers of strides in a step. A part of
    the layer that runs in torch is an error unless `in_torch` names its class, as is one that reads
    invalid frames, which hold NaN. Raises LoweringError if the layer has no native form.
    """
    with torch.no_grad():
        expected = copy.deepcopy(layer).double()(Chunk.of(x.double(), lengths))
        for count in strides:
            block = count * layer.stride
            native = NativeLayer(layer, block, c_in=x.shape[1])
            others = [name for name in native.in_torch if name not in in_torch]
            assert not others, f"{', '.join(others)} runs in torch"
            got = _stepped(native, block, x, lengths)
            frames = expected.x.shape[2]
            y = Chunk(got.x[:, :, :frames], got.valid[:, :frames])
            name = f"{type(layer).__name__} in steps of {count} strides"
            assert torch.equal(y.valid, expected.valid), f"{name}: valid differs"
            assert_close(name, expected.masked, y.masked.double(), rtol)


@torch.no_grad()
def check_native_net(config: Net) -> None:
    """`check_native` for the stem, the encoder and the head of a model, with noise on weights."""
    model = build(config, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    # many weights start at 0 or 1
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    net = Serial(model.stem, model.encoder, model.head)
    # with a mean and a scale that norms change
    x = 2 * torch.randn(3, 64, 47, generator=torch.Generator().manual_seed(1)) + 1
    check_native(net, x, torch.tensor([47, 30, 1]))


def _stepped(layer: NativeLayer, block: int, x: Tensor, lengths: Tensor | None) -> Chunk:
    """The output for x, aligned with it."""
    blocks = blocks_to_end(layer, x.shape[2], block)
    whole = F.pad(x, (0, blocks * block - x.shape[2]))
    given = torch.full((len(x),), x.shape[2]) if lengths is None else lengths
    c = Chunk.of(whole, given)
    c = Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid)
    state, parts = layer.init_state(len(x), x.shape[1]), []
    for start in range(0, whole.shape[2], block):
        part = Chunk(c.x[:, :, start : start + block], c.valid[:, start : start + block])
        made, state = layer.step(part, state)
        parts.append(Chunk(made.x.clone(), made.valid.clone()))
    y = torch.cat([part.x for part in parts], dim=2)
    valid = torch.cat([part.valid for part in parts], dim=1)
    return Chunk(y[:, :, layer.delay :], valid[:, layer.delay :])
