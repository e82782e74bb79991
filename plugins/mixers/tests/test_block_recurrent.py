"""Paper 88: attention to a window and to states that read blocks."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from speechkit_mixers.block_recurrent import (
    CONFIGS,
    GATES,
    BlockRecurrence,
    Gate,
    States,
    block_recurrent,
)
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import BodyMaker, Chunk
from speechkit.testing import assert_close, check_native, check_stream
from speechkit.train.optim import parameter_groups


def layer(states: int = 3, gate: str = "bias", config: str = "skip", window: int = 5) -> Any:
    """A layer of 8 channels and 2 heads whose parameters are all away from their start."""
    torch.manual_seed(0)
    made = BlockRecurrence(8, 2, window, states, gate, config).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, mean=0.3, std=0.5)
    return made.requires_grad_(False)


def frames(made: BlockRecurrence, count: int, batch: int = 1, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    channels = 8 * (4 if made.states else 3)
    return torch.randn(batch, channels, count, generator=chance, dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    return x / (x.pow(2).sum() + 1e-6).sqrt()


def softmaxed(logits: list[Tensor], values: list[Tensor]) -> Tensor:
    weights = torch.stack(logits).softmax(0)
    return (weights[:, None] * torch.stack(values)).sum(0)


def heads(x: Tensor) -> list[Tensor]:
    return list(x.split(4))


def rms(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def next_states(s: States, r: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """The states `[S, 8]` after a block, one state and one head after another."""
    e = rms(r, s.norm) + s.embedding
    offered, asked = e @ s.offered.weight.t(), e @ s.asked.weight.t()
    y = []
    for i in range(len(r)):
        own, cross = [], []
        for h in range(2):
            q, p = (unit(heads(part)[h]) for part in asked[i].split(8))
            ks = [unit(heads(o[:8])[h]) for o in offered]
            own.append(
                softmaxed(
                    [s.scales[0, h].abs().squeeze() * (q @ k) for k in ks],
                    [heads(o[8:])[h] for o in offered],
                )
            )
            scale = s.scales[1, h].abs().squeeze()
            cross.append(
                softmaxed(
                    [scale * (p @ unit(heads(k)[h])) for k in keys], [heads(v)[h] for v in values]
                )
            )
        y.append(torch.cat(own + cross))
    given = torch.stack(y)
    if s.config != "single":
        r = gated(s.out_gate, r, given @ s.out.weight.t(), given)
        if s.config == "skip":
            return r
        given = rms(r, s.up_norm)
    hidden = (given @ s.up.weight.t()).clamp(min=0)
    z = hidden @ s.down.weight.t()
    return gated(s.down_gate, r, z.tanh() if s.config == "single" else z, hidden)


def gated(gate: Gate, r: Tensor, z: Tensor, y: Tensor) -> Tensor:
    if gate.kind == "bias":
        g = torch.sigmoid(gate.bias[0])
        return g * r + (1 - g) * z
    if gate.kind == "full":
        g = torch.sigmoid(y @ gate.kernel[0].t() + gate.bias[0] + 1)
        return g * r + (1 - g) * z
    f = torch.sigmoid(y @ gate.kernel[0].t() + gate.bias[0] + 1)
    i = torch.sigmoid(y @ gate.kernel[1].t() + gate.bias[1] - 1)
    return f * r + i * z


def looped(made: BlockRecurrence, x: Tensor) -> Tensor:
    """The output `[T, C']` of frames `[T, C]`, one frame after another."""
    window, s = made.size, made.states
    keys, values, queries, *others = x.split(8, dim=1)
    r = s.initial if s else torch.zeros(0)
    y = []
    for t in range(len(x)):
        seen = range(max(0, t - window + 1), t + 1)
        row = []
        for h in range(2):
            q = unit(heads(queries[t])[h])
            scale = made.scales[0, h].abs().squeeze()
            logits = [
                scale * (q @ unit(heads(keys[j])[h])) + made.distances[min(t - j, 15), h]
                for j in seen
            ]
            row.append(softmaxed(logits, [heads(values[j])[h] for j in seen]))
        if s:
            offered = (rms(r, s.norm) + s.embedding) @ s.offered.weight.t()
            for h in range(2):
                p = unit(heads(others[0][t])[h])
                scale = made.scales[1, h].abs().squeeze()
                logits = [scale * (p @ unit(heads(o[:8])[h])) for o in offered]
                row.append(softmaxed(logits, [heads(o[8:])[h] for o in offered]))
            if t % window == window - 1:
                block = slice(t - window + 1, t + 1)
                r = next_states(s, r, list(keys[block]), list(values[block]))
        y.append(torch.cat(row))
    return torch.stack(y)


@pytest.mark.parametrize(
    ("states", "gate", "config"),
    [(0, "bias", "skip"), *((3, gate, config) for gate in GATES for config in CONFIGS)],
)
def test_paper_088_it_equals_a_loop_over_frames(states: int, gate: str, config: str) -> None:
    made = layer(states, gate, config)
    x = frames(made, 13)
    expected = looped(made, x[0].t()).t()[None]
    assert_close(f"{gate} {config}", expected, made(Chunk.of(x)).x, 1e-12)


@pytest.mark.parametrize("states", [0, 3])
def test_paper_088_ragged_rows_stream_in_any_chunks(states: int) -> None:
    made = layer(states, "lstm", "dual", window=8)
    x = frames(made, 64, batch=3)
    chunks = (1, 7, 8, 9, [24, 40], [1, 30, 2])
    check_stream(made, x, torch.tensor([64, 41, 0]), chunks)


def test_paper_088_frames_that_are_not_valid_are_as_if_they_were_not_there() -> None:
    made = layer()
    x = frames(made, 23)
    valid = torch.ones(1, 30, dtype=torch.bool)
    valid[0, [0, 1, 9, 10, 11, 20, 29]] = False
    spread = x.new_full((1, 32, 30), torch.nan)
    spread[:, :, valid[0]] = x
    y = made(Chunk(spread, valid))
    assert_close("with gaps", made(Chunk.of(x)).x, y.x[:, :, valid[0]], 1e-12)


def test_paper_088_later_frames_change_nothing() -> None:
    made = layer(window=8)
    x, other = frames(made, 64), frames(made, 64, seed=1)
    changed = torch.cat([x[:, :, :40], other[:, :, 40:]], dim=2)
    assert torch.equal(made(Chunk.of(x)).x[:, :, :40], made(Chunk.of(changed)).x[:, :, :40])


def test_paper_088_a_frame_sees_the_last_ones_and_by_states_all_whole_blocks() -> None:
    for states, last in ((0, 12), (3, 29)):
        made = layer(states)
        x = frames(made, 30)
        other = x.clone()
        other[:, :, 8] += 1
        moved = (made(Chunk.of(x)).x - made(Chunk.of(other)).x).abs().amax((0, 1)) > 1e-9
        # frame 8 is in the window of frames 8 to 12; its block of five ends with frame 9
        assert moved.nonzero().flatten().tolist() == list(range(8, last + 1))


def test_paper_088_a_gate_that_is_open_keeps_the_states() -> None:
    for config in CONFIGS:
        made = layer(config=config)
        for gate in made.states.modules():
            if isinstance(gate, Gate):
                gate.bias.fill_(torch.inf)
        _, state = made.step(Chunk.of(frames(made, 40)), made.init_state(1, 32, torch.float64))
        assert torch.equal(state[3], made.states.initial[None])


@pytest.mark.parametrize("kind", ["bias", "full"])
def test_paper_088_bias_and_full_are_convex(kind: str) -> None:
    torch.manual_seed(0)
    gate = Gate(kind, 6, 8)
    r, z, y = torch.randn(1, 3, 8), torch.randn(1, 3, 8), torch.randn(1, 3, 6)
    moved = gate(r, z, y)
    assert (moved <= torch.maximum(r, z)).all()
    assert (moved >= torch.minimum(r, z)).all()
    assert_close(kind, r, gate(r, r, y), 1e-6)


def test_paper_088_gates_begin_near_the_state_they_had() -> None:
    torch.manual_seed(0)
    gate = Gate("lstm", 256, 512)
    y = torch.zeros(1, 1, 256)
    one, none = torch.ones(1, 1, 512), torch.zeros(1, 1, 512)
    assert gate(one, none, y).mean().item() == pytest.approx(1 / (1 + math.exp(-1)), abs=0.01)
    assert gate(none, one, y).mean().item() == pytest.approx(1 / (1 + math.e), abs=0.01)
    assert gate.kernel.std().item() == pytest.approx((0.1 / 256) ** 0.5, rel=0.02)
    assert gate.bias.std().item() == pytest.approx(0.1, rel=0.05)


def test_paper_088_the_relative_bias_has_the_buckets_of_t5() -> None:
    made = BlockRecurrence(8, 2, 256, 0, "bias", "skip")
    buckets = made.get_buffer("buckets").tolist()
    assert buckets[:16] == list(range(16))
    # 16 · (128 / 16)^(i / 16) is the first distance of bucket 16 + i
    for i in range(1, 16):
        first = math.ceil(16 * 8 ** (i / 16) - 1e-9)
        assert (buckets[first - 1], buckets[first]) == (15 + i, 16 + i)
    assert set(buckets[128:]) == {31}


def test_paper_088_every_parameter_learns() -> None:
    for gate, config in zip(GATES, CONFIGS, strict=True):
        made = layer(gate=gate, config=config).train().requires_grad_()
        made(
            Chunk.of(frames(made, 23, batch=2), torch.tensor([23, 9]))
        ).masked.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in made.parameters())
        # an utterance shorter than a block moves no state, but no parameter is left out
        made.zero_grad()
        made(Chunk.of(frames(made, 3))).x.sum().backward()
        assert all(p.grad is not None for p in made.parameters())


def test_paper_088_it_trains_in_mixed_precision(maker: Callable[..., BodyMaker]) -> None:
    torch.manual_seed(0)
    block = block_recurrent(8, 8, maker(), window=5, states=3, gate="lstm", config="dual")
    c = Chunk.of(torch.randn(2, 8, 23), torch.tensor([23, 9]))
    with torch.autocast("cpu", torch.bfloat16):
        y = block(c).masked
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    assert_close("bf16", block(c).masked.detach(), y.float().detach(), 5e-2)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("config", CONFIGS)
def test_paper_088_a_native_step_computes_the_same(
    maker: Callable[..., BodyMaker], gate: str, config: str
) -> None:
    torch.manual_seed(0)
    block = block_recurrent(8, 24, maker(), window=5, states=3, gate=gate, config=config).eval()
    for name, parameter in block.named_parameters():
        if name.endswith(("distances", "scales", "bias")):
            nn.init.normal_(parameter)
    # one row ends within a block, and blocks end within a step
    check_native(block, torch.randn(3, 8, 43), torch.tensor([43, 18, 3]))


def test_paper_088_attention_without_states_is_native(maker: Callable[..., BodyMaker]) -> None:
    torch.manual_seed(0)
    block = block_recurrent(8, 8, maker(), window=20, states=0).eval()
    nn.init.normal_(block.get_parameter("1.body.attention.distances"))
    check_native(block, torch.randn(2, 8, 50), torch.tensor([50, 33]))


def test_paper_088_macs_count_the_reads_and_the_states_of_each_block(
    maker: Callable[..., BodyMaker],
) -> None:
    made = layer(states=0)
    assert made.macs(100) == 100 * 2 * 8 * 5
    made = layer(states=3)
    linear = 16 * 8 + 16 * 8 + 16 * 8  # offered, asked, out
    block = 3 * (linear + 16 * 8 + 2 * 8 * (3 + 5))
    assert made.macs(100) == 100 * 2 * 8 * (5 + 3) + 20 * block


def test_paper_088_a_built_net_begins_as_in_the_paper(family: Callable[..., Net]) -> None:
    model = sk.build(family(block="mixers/block_recurrent:gate=lstm,states=64"))
    found = [m for m in model.modules() if isinstance(m, States)]
    assert len(found) == sum(row.residual * row.copies for row in model.config.blocks)
    spared = {id(p) for p in parameter_groups(model)[1]["params"]}
    for s in found:
        width = s.initial.shape[1]
        assert s.initial.std().item() == pytest.approx(0.1, rel=0.1)
        assert s.embedding.std().item() == pytest.approx(1, rel=0.1)
        assert s.out_gate.kernel.std().item() == pytest.approx((0.1 / 2 / width) ** 0.5, rel=0.1)
        assert (s.scales == 1).all()
        kept = s.initial, s.embedding, s.scales, s.out_gate.bias, s.norm.weight
        assert all(id(p) in spared for p in kept)
        assert id(s.out.weight) not in spared


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, "heads=3 of 8 channels, states=32; give heads that divide the channels"),
        ({"states": -1}, "heads=4 of 8 channels, states=-1"),
        ({"gate": "gru"}, "gate='gru'; give one of bias, full, lstm"),
        ({"config": "triple"}, "config='triple'; give one of skip, dual, single"),
        ({"window": 1}, "window=1: give a number of frames from 2 up"),
    ],
)
def test_paper_088_wrong_parameters_are_refused(
    maker: Callable[..., BodyMaker], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ComponentError, match=message):
        block_recurrent(8, 8, maker(), **fields)
