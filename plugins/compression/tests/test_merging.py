"""Merged layers compute what the layers that are kept compute."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from speechkit_compression.merging import FrameMap, folded, merged, merged_names, taps_after
from speechkit_compression.segments import Segment, sub_blocks, unchanged
from torch import Tensor
from torch.nn import functional as F

import speechkit as sk
from speechkit.models import Net
from speechkit.nn import BatchNorm, Chunk, DepthwiseConv, LookAhead, Pointwise, Serial, StreamLayer
from speechkit.testing import check_stream

REPEATED = (
    sk.Block(channels=8, kernel=5),
    sk.Block(channels=8, kernel=5, repeat=3, residual=True),
    sk.Block(channels=8, kernel=3, residual=True),
    sk.Block(channels=12, kernel=1, separable=False),
)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def net_of(lookahead: LookAhead, norm: str = "batch") -> Net:
    net = sk.MatchboxNet(labels=("a", "b"), blocks=REPEATED, frontend="log_mel:n_mels=6")
    return replace(net, lookahead=lookahead, norm=norm)


def model_of(lookahead: LookAhead, norm: str = "batch") -> sk.Model:
    """A model whose norms do something, in float64."""
    model = sk.build(net_of(lookahead, norm), 1).double().eval()
    chance = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=chance)
    return model


def pruned(model: sk.Model, segment: Segment, c: Chunk) -> Chunk:
    """Stem and encoder of the net with only what the segment keeps, before anything is merged.

    In the stem and the rows, filters, 1×1 layers with norms, and activations are left out.
    """
    blocks = sub_blocks(model.config, 6)
    at = 0
    for row in (model.stem, *model.encoder):  # type: ignore[misc]
        given, c_body = c, c
        block: Any = row
        residual = hasattr(block, "sum")
        body = list(block.sum.body if residual else block.body)
        own = [b for b in blocks if b.row == blocks[at].row]
        for place, _ in enumerate(own):
            layer = body[2 * place]
            inside = segment.start <= at < segment.stop
            if hasattr(layer, "mixer") and not (inside and at > segment.split):
                c_body = layer.mixer(c_body)
            if not (inside and at < segment.split):
                c_body = layer.norm(
                    (layer.channel if hasattr(layer, "mixer") else layer.conv)(c_body)
                )
            last = place + 1 == len(own)
            if last and residual:
                c_body = Chunk(c_body.x + block.sum.shortcut(given).x, c_body.valid)
            if not (inside and at + 1 < segment.stop):
                c_body = (block.after if last else body[2 * place + 1])(c_body)
            at += 1
        c = c_body
    return c


def both(model: sk.Model, segment: Segment) -> tuple[Chunk, Chunk]:
    """The output of the pruned net and of the merged one, for two utterances."""
    same = unchanged(len(sub_blocks(model.config, 6)))
    made = merged(model, [*same[: segment.start], segment, *same[segment.stop :]]).double()
    # the weights in float64, which `build` makes in float32
    c = Chunk.of(drawn(2, 40, 6).transpose(1, 2), torch.tensor([40, 30]))
    with torch.no_grad():
        return pruned(model, segment, c), made.encoder(made.stem(c))


def difference(expected: Chunk, found: Chunk) -> Tensor:
    """The largest difference of each valid frame, relative to the largest value, `[B, T]`."""
    assert torch.equal(expected.valid, found.valid)
    far = (expected.masked - found.masked).abs().amax(1)
    return far / expected.masked.abs().max()


def test_two_frame_maps_are_one() -> None:
    one, other = FrameMap(drawn(5, 4), drawn(5)), FrameMap(drawn(3, 5), 2 * drawn(3))
    x = drawn(9, 4)
    y = (x @ one.weight.T + one.bias) @ other.weight.T + other.bias
    whole = one.then(other)
    torch.testing.assert_close(x @ whole.weight.T + whole.bias, y, rtol=0, atol=1e-12)


def test_a_frame_map_after_a_dense_convolution_is_one() -> None:
    one, other = FrameMap(drawn(5, 4, 3), drawn(5)), FrameMap(drawn(6, 5), drawn(6))
    x, whole = drawn(1, 4, 20), one.then(other)
    y = F.conv1d(F.conv1d(x, one.weight, one.bias), other.weight[..., None], other.bias)
    torch.testing.assert_close(F.conv1d(x, whole.weight, whole.bias), y, rtol=0, atol=1e-12)


def test_a_shortcut_beside_a_body_is_one() -> None:
    one, other = FrameMap(drawn(5, 4), drawn(5)), FrameMap(2 * drawn(5, 4), -drawn(5))
    x, whole = drawn(9, 4), one.beside(other)
    y = x @ one.weight.T + one.bias + x @ other.weight.T + other.bias
    torch.testing.assert_close(x @ whole.weight.T + whole.bias, y, rtol=0, atol=1e-12)


def test_a_norm_is_folded() -> None:
    norm = BatchNorm(5).double()
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.copy_(drawn(5))
        norm.running_var.copy_(drawn(5).square() + 0.5)
    for bias in (False, True):
        layer = Serial(channel=Pointwise(4, 5, bias).double(), norm=norm).eval()
        x, whole = drawn(9, 4), folded(layer)
        y = layer(Chunk.of(x.T[None])).x[0].T
        torch.testing.assert_close(x @ whole.weight.T + whole.bias, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dilation", [1, 2])
def test_two_causal_filters_are_one_up_to_the_borders(dilation: int) -> None:
    x, found = filters(0, dilation)
    assert (x - found).abs().max() < 1e-12


def test_two_symmetric_filters_are_one_inside_and_differ_at_the_borders() -> None:
    y, found = filters("same", 1)
    off = (y - found).abs().amax((0, 1))
    # the first reads 2 frames ahead, the second 3
    assert off[3:-3].max() < 1e-12
    assert off[:3].min() > 1e-3
    assert off[-3:].min() > 1e-3


def filters(lookahead: LookAhead, dilation: int) -> tuple[Tensor, Tensor]:
    """What filters of 5 and 7 taps return one after another, and as one."""
    lengths = torch.tensor([30, 30])
    c = Chunk.of(drawn(2, 30, 4).transpose(1, 2), lengths)
    one, other, whole = (
        DepthwiseConv(4, kernel, 1, dilation, lookahead).double() for kernel in (5, 7, 11)
    )
    with torch.no_grad():
        one.weight.copy_(drawn(4, 1, 5))
        other.weight.copy_(drawn(4, 1, 7))
        whole.weight.copy_(taps_after(one.weight, other.weight))
        return other(one(c)).x, whole(c).x


CAUSAL = [Segment(1, 1, 3), Segment(1, 2, 3), Segment(2, 3, 4), Segment(1, 3, 4), Segment(1, 2, 4)]
CROSSING = [
    Segment(0, 0, 4),
    Segment(1, 2, 5),
    Segment(3, 3, 5),
    Segment(4, 4, 6),
    Segment(0, 0, 6),
]


@pytest.mark.parametrize("segment", [*CAUSAL, *CROSSING], ids=str)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_causal_net_is_that_of_the_kept_layers(segment: Segment, norm: str) -> None:
    assert difference(*both(model_of(0, norm), segment)).max() < 1e-6


@pytest.mark.parametrize(
    "segment", [s for s in (*CAUSAL, *CROSSING) if s.split == s.start], ids=str
)
def test_1x1_layers_merge_exactly_with_look_ahead(segment: Segment) -> None:
    assert difference(*both(model_of("same"), segment)).max() < 1e-6


def test_with_look_ahead_merged_filters_differ_at_the_borders_alone() -> None:
    off = difference(*both(model_of("same"), Segment(1, 2, 3)))
    # what the later filters read of the two frames that differ at each end
    near = 2 + 2 + 1
    assert off[0, near:-near].max() < 1e-6
    assert off[1, near : 30 - near].max() < 1e-6
    assert off[0, :near].max() > 1e-3
    assert off[1, 30 - near : 30].max() > 1e-3


def test_no_merge_is_the_same_net() -> None:
    model = model_of("same")
    made = merged(model, unchanged(6))
    assert made.config.rows() == model.config.rows()
    new = made.state_dict()
    assert all(torch.equal(x.to(new[k].dtype), new[k]) for k, x in model.state_dict().items())


def test_the_rows_of_the_config_describe_the_merged_net() -> None:
    model = model_of(0)
    plan = [Segment(0, 0, 1), Segment(1, 2, 3), Segment(3, 3, 5), Segment(5, 5, 6)]
    made = merged(model, plan)
    rows = [block for block, _ in made.config.rows()]
    assert [row.repeat for row in rows] == [1, 2, 1]
    assert [row.kernel for row in rows] == [5, (9, 5), 1]
    assert str(rows[1].norm) == "none"
    assert rows[2].norm is None
    names = merged_names(sub_blocks(model.config, 6), plan)
    assert [names[s] for s in plan[1:3]] == ["encoder.0.sum.body.0", "encoder.0.sum.body.2"]
    layers: Any = [made.get_submodule(names[s]).mixer for s in plan[1:3]]
    assert [layer.kernel for layer in layers] == [9, 5]


def test_the_activation_is_that_of_the_last_sub_block() -> None:
    rows = list(REPEATED)
    rows[1] = replace(rows[1], activation=("silu", "gelu", "hardtanh"))
    model = sk.build(replace(net_of(0), blocks=tuple(rows)), 1)
    made = merged(model, [*unchanged(2), Segment(2, 2, 4), *unchanged(6)[4:]])
    assert [str(s) for s in made.config.blocks[1].activation] == ["silu", "hardtanh"]  # type: ignore
    made = merged(model, [*unchanged(3), Segment(3, 3, 5), *unchanged(6)[5:]])
    assert [str(s) for s in made.config.blocks[1].activation] == ["silu", "gelu", "relu"]  # type: ignore


def test_a_merged_net_streams() -> None:
    made = merged(
        model_of("same"), [Segment(0, 0, 1), Segment(1, 3, 4), *unchanged(6)[4:]]
    ).double()
    net: StreamLayer = Serial(made.stem, made.encoder)
    check_stream(net, drawn(2, 40, 6).transpose(1, 2), torch.tensor([40, 30]), rtol=1e-9)
