"""A stack that goes down in rate and up again keeps every frame in its place."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from speechkit_mixers.unet import Double, Halve, unet
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.infer import stream_scores
from speechkit.nn import BatchNorm, Chunk, DenseConv, Pointwise, StreamLayer

NETS = {
    "quartznet": (partial(sk.QuartzNet, size="5x5"), 3),
    "matchboxnet": (partial(sk.MatchboxNet, labels=("a", "b"), size="3x1x64"), 2),
    "marblenet": (partial(sk.MarbleNet, size="3x2x64"), 2),
}
WIDTHS = (4, 6, 8, 5, 7)


def noise(frames: int) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, frames, generator=chance, dtype=torch.float64)


def made(levels: int | None = None, lookahead: int = 1) -> StreamLayer:
    torch.manual_seed(0)
    pairs = zip((3, *WIDTHS), WIDTHS, strict=False)
    stack = unet([DenseConv(a, b, 3, lookahead=lookahead) for a, b in pairs], levels).double()
    for norm in stack.modules():
        if isinstance(norm, BatchNorm):
            nn.init.normal_(norm.bias)
    return stack.eval()


def weights(stack: StreamLayer, name: str) -> Tensor:
    return dict(stack.named_parameters())[f"{name}.weight"]


def test_paper_073_the_levels_are_joined_at_their_rates() -> None:
    stack, x = made(), noise(16)

    def block(name: str, x: Tensor) -> Tensor:
        return F.conv1d(x, weights(stack, name), padding=1)

    def join(name: str, down: Tensor, below: Tensor) -> Tensor:
        joined = torch.cat([down, below.repeat_interleave(2, dim=2)], dim=1)
        norm = stack.get_submodule(f"{name}.norm")
        assert isinstance(norm, BatchNorm)
        scale = (1 + norm.eps) ** -0.5
        y = F.conv1d(joined, weights(stack, f"{name}.channel")[:, :, None]) * scale
        return (y + norm.bias[:, None]).relu()

    def halved(x: Tensor) -> Tensor:
        return torch.maximum(x[:, :, ::2], x[:, :, 1::2])

    inner = "inner.inner.inner"
    first = block("down", x)
    second = block(f"{inner}.down", halved(first))
    third = block(f"{inner}.{inner}.0", halved(second))
    fourth = block(f"{inner}.up", join(f"{inner}.join", second, third))
    expected = block("up", join("join", first, fourth))
    torch.testing.assert_close(stack(Chunk.of(x)).x, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_paper_073_every_length_keeps_its_frames() -> None:
    stack, x = made(), noise(97)[:1].expand(97, -1, -1)
    padded = stack(Chunk.of(x, torch.arange(1, 98)))
    for frames in range(1, 98):
        alone = stack(Chunk.of(x[:1, :, :frames]))
        assert alone.x.shape == (1, WIDTHS[-1], frames)
        assert alone.valid.all()
        row = padded.x[frames - 1 : frames, :, :frames]
        assert padded.valid[frames - 1].sum() == frames
        torch.testing.assert_close(row, alone.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_a_stream_equals_the_whole(levels: int, lookahead: int) -> None:
    stack = made(levels, lookahead)
    assert (stack.stride, stack.rate) == (2**levels, 2**levels)
    sk.testing.check_stream(stack, noise(45), torch.tensor([45, 22]))


def test_its_step_is_native() -> None:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 30, generator=chance)
    for layer in (Halve(), Double()):
        sk.testing.check_native(layer, x, torch.tensor([30, 17]))
    sk.testing.check_stream(Halve().double(), x.double(), torch.tensor([30, 17]))
    sk.testing.check_stream(Double().double(), x.double(), torch.tensor([30, 17]))
    sk.testing.check_native(made().float(), x[:, :3], torch.tensor([30, 17]))


@pytest.mark.parametrize("net", NETS)
def test_built_nets_learn(net: str) -> None:
    config, levels = NETS[net]
    model = sk.build(config(stack="unet")).train()
    assert model.encoder.stride == 2**levels
    audio = 0.1 * torch.randn(2, 3200, generator=torch.Generator().manual_seed(0))
    model(audio, torch.tensor([3200, 2000])).scores.square().mean().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, f"no gradient reaches {name}"
        assert weight.grad.isfinite().all(), name


def test_a_vad_with_it_streams() -> None:
    fields = {"frame_level": True, "frontend": "log_mel:normalize=fixed", "lookahead": 1}
    model = sk.build(sk.MarbleNet(size="3x2x64", stack="unet", **fields)).eval()
    audio = 0.1 * torch.randn(6400, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        offline = model(audio[None]).scores[0]
    streamed = torch.cat(list(stream_scores(model, audio, chunk_s=0.05)))
    torch.testing.assert_close(streamed, offline, rtol=1e-3, atol=1e-4)


def test_what_has_no_way_down_is_refused() -> None:
    with pytest.raises(ComponentError, match="at least 3 blocks"):
        unet([Pointwise(4, 4), Pointwise(4, 4)])
    with pytest.raises(ComponentError, match="levels=3 of 5"):
        made(levels=3)
    with pytest.raises(ComponentError, match="block 1 has a stride"):
        unet([Pointwise(4, 4), DenseConv(4, 4, 3, stride=2), Pointwise(4, 4)])
