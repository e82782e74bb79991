"""Paper 108: latents read a block of frames, think, write to it, and go on to the next block."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from speechkit_mixers.rin import RIN, Attention, FeedForward, rin
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import BodyMaker, Chunk
from speechkit.testing import assert_close, check_native, check_stream
from speechkit.train.optim import parameter_groups


def layer(
    carry: bool = True, blocks: int = 2, moved: bool = True, window: int = 5, gain: float = 0.0
) -> RIN:
    """A layer of 8 channels and 3 latents of 12, whose parameters are away from their start."""
    torch.manual_seed(0)
    made = RIN(8, window, 3, 12, blocks, 2, 3, 2, carry, gain).double().eval()
    if moved:
        for parameter in made.parameters():
            nn.init.normal_(parameter, mean=0.1, std=0.4)
    return made


def frames(count: int, batch: int = 1, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 8, count, generator=chance, dtype=torch.float64)


def run(made: RIN, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Chunk = made(Chunk.of(x))
    return y.x


def attention(a: Attention, x: Tensor, z: Tensor | None = None) -> Tensor:
    """torch's attention with the layer's weights; x `[Q, C]`, z `[K, Z]`."""
    x = nn.functional.layer_norm(x, x.shape[1:], a.norm.weight, a.norm.bias, 1e-6)
    z = x if z is None else z
    inner = len(a.asked.weight)
    weights = a.asked.weight, *a.offered.weight.split(inner)
    biases = torch.cat([a.asked.bias, a.offered.bias])
    # the inner width is that of the query, which is mapped beforehand
    y, _ = nn.functional.multi_head_attention_forward(
        (x @ weights[0].t() + a.asked.bias)[:, None],
        z[:, None],
        z[:, None],
        inner,
        a.heads,
        None,
        torch.cat([torch.zeros_like(a.asked.bias), biases[inner:]]),
        None,
        None,
        False,
        0.0,
        a.out.weight,
        a.out.bias,
        use_separate_proj_weight=True,
        q_proj_weight=torch.eye(inner, dtype=x.dtype),
        k_proj_weight=weights[1],
        v_proj_weight=weights[2],
    )
    return y[:, 0]


def feed(f: FeedForward, x: Tensor) -> Tensor:
    n = nn.functional.layer_norm(x, x.shape[1:], f.norm.weight, f.norm.bias, 1e-6)
    h = n @ f.up.weight.t() + f.up.bias
    h = 0.5 * h * (1 + torch.erf(h / 2**0.5))
    return h @ f.down.weight.t() + f.down.bias


def looped(made: RIN, x: Tensor) -> Tensor:
    """The output `[T, C]` of frames `[T, C]`, one block after another."""
    before, y = torch.zeros_like(made.latents), []
    for block in x.split(made.size):
        z, frame = made.latents, block + made.places[: len(block)]
        if made.carry:
            given = before + feed(made.carry.feed, before)
            z = z + made.carry.gain * nn.functional.layer_norm(given, (12,), eps=1e-6)
        for i in made.interfaces:
            z = z + attention(i.read, z, frame)
            z = z + feed(i.read_feed, z)
            for latent_layer in i.think:
                z = z + attention(latent_layer.attention, z)
                z = z + feed(latent_layer.feed, z)
            frame = frame + attention(i.write, frame, z)
            frame = frame + feed(i.write_feed, frame)
        before = z
        y.append(frame)
    return torch.cat(y)


@pytest.mark.parametrize("carry", [True, False])
def test_paper_108_it_equals_a_loop_over_blocks(carry: bool) -> None:
    made = layer(carry).requires_grad_(False)
    x = frames(17)
    assert_close("rin", looped(made, x[0].t()).t()[None], run(made, x), 1e-12)


@pytest.mark.parametrize("carry", [True, False])
def test_paper_108_ragged_rows_stream_in_any_chunks(carry: bool) -> None:
    made = layer(carry, window=8)
    assert (made.delay, made.right) == (7, 7)
    chunks = (1, 7, 8, 9, [24, 40], [1, 30, 2])
    check_stream(made, frames(64, batch=3), torch.tensor([64, 41, 0]), chunks)


def test_paper_108_a_gain_of_zero_carries_nothing() -> None:
    made, without = layer(moved=False), layer(carry=False, moved=False)
    without.load_state_dict(made.state_dict(), strict=False)
    assert made.carry is not None
    assert not made.carry.gain.any()
    x = frames(23)
    assert torch.equal(run(made, x), run(without, x))
    made(Chunk.of(x)).x.square().sum().backward()
    assert made.carry.gain.grad is not None
    assert made.carry.gain.grad.all()
    assert not torch.equal(run(layer(moved=False, gain=1.0), x), run(without, x))


def test_paper_108_only_the_latents_connect_blocks() -> None:
    x, other = frames(20), frames(20)
    other[:, :, 6] += 1
    for carry, last in ((False, 9), (True, 19)):
        made = layer(carry)
        moved = (run(made, x) - run(made, other)).abs().amax((0, 1)) > 1e-9
        # frame 6 is in the block of frames 5 to 9, all of which read it
        assert moved.nonzero().flatten().tolist() == list(range(5, last + 1))


def test_paper_108_the_order_of_the_latents_is_without_effect() -> None:
    made = layer()
    shuffled = copy.deepcopy(made)
    shuffled.latents.data = made.latents.data[[2, 0, 1]]
    assert_close("shuffled", run(made, frames(17)), run(shuffled, frames(17)), 1e-12)


def test_paper_108_a_block_without_valid_frames_keeps_the_latents() -> None:
    made, x = layer(), frames(20)
    valid = torch.ones(1, 20, dtype=torch.bool)
    valid[:, 5:10] = False
    with torch.no_grad():
        y = made(Chunk(x.masked_fill(~valid[:, None], torch.nan), valid))
    joined = torch.cat([x[:, :, :5], x[:, :, 10:]], dim=2)
    assert_close("after the gap", run(made, joined)[:, :, 5:], y.x[:, :, 10:], 1e-12)


def test_paper_108_its_cost_is_linear_in_time() -> None:
    made = layer(carry=False, blocks=1)
    read = 3 * (12 * 8 + 8 * 12) + 5 * 8 * 16 + 2 * 3 * 5 * 8
    write = 5 * (8 * 8 + 8 * 8) + 3 * 12 * 16 + 2 * 3 * 5 * 8
    think = 3 * 4 * 12 * 12 + 2 * 3 * 3 * 12
    feeds = 3 * 3 * 2 * 12 * 48 + 5 * 2 * 8 * 16
    assert made.macs(5) == read + write + 2 * think + feeds
    assert made.macs(10_000) == 10 * made.macs(1000)


def test_paper_108_every_parameter_learns() -> None:
    made = layer().train()
    made(Chunk.of(frames(23, batch=2), torch.tensor([23, 9]))).masked.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())


def test_paper_108_it_trains_in_mixed_precision(maker: Callable[..., BodyMaker]) -> None:
    torch.manual_seed(0)
    block = rin(8, 8, maker(), window=5, gain=1)
    c = Chunk.of(torch.randn(2, 8, 23), torch.tensor([23, 9]))
    with torch.autocast("cpu", torch.bfloat16):
        y = block(c).masked
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    assert_close("bf16", block(c).masked.detach(), y.float().detach(), 5e-2)


@pytest.mark.parametrize("carry", [True, False])
def test_paper_108_a_native_step_computes_the_same(
    maker: Callable[..., BodyMaker], carry: bool
) -> None:
    torch.manual_seed(0)
    block = rin(6, 24, maker(), window=5, latents=3, blocks=2, gain=1, carry=carry).eval()
    # the last block of each row is filled with frames after the end
    check_native(block, torch.randn(3, 6, 43), torch.tensor([43, 18, 3]))


def test_paper_108_a_built_net_begins_without_a_carry(family: Callable[..., Net]) -> None:
    model = sk.build(family(block="mixers/rin"))
    found = [m for m in model.modules() if isinstance(m, RIN)]
    assert len(found) == sum(row.residual * row.copies for row in model.config.blocks)
    spared = {id(p) for p in parameter_groups(model)[1]["params"]}
    for made in found:
        assert made.carry is not None
        assert not made.carry.gain.any()
        assert made.latents.std().item() == pytest.approx(0.02, rel=0.1)
        norms = [
            m.weight for m in made.modules() if isinstance(m, nn.LayerNorm) and m.elementwise_affine
        ]
        kept = made.carry.gain, made.latents, made.places, *norms
        assert all(id(p) in spared for p in kept)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, "heads=3 of latent_dim=64, rw_heads=1 of 8; give heads that divide"),
        ({"rw_heads": 3}, "heads=4 of latent_dim=64, rw_heads=3 of 8; give heads that divide"),
        ({"latents": 0}, "latents=0, latent_dim=64, .* give 1 or more of each"),
        ({"window": 1}, "window=1: give a number of frames from 2 up"),
    ],
)
def test_paper_108_wrong_parameters_are_refused(
    maker: Callable[..., BodyMaker], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ComponentError, match=message):
        rin(8, 8, maker(), **fields)
