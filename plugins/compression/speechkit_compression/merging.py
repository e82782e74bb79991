"""The algebra of merged sub-blocks, and the net that a plan makes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from speechkit.models import Block, Model
from speechkit.nn.stream import unwrapped
from speechkit.transforms.rows import Row, row_name, with_rows
from speechkit_compression.segments import Segment, SubBlock, kernel, sub_blocks


class FrameMap(NamedTuple):
    """y = W x + b at every frame; W is `[C', C]`, or `[C', C, K]` over K frames, and b `[C']`."""

    weight: Tensor
    bias: Tensor

    def then(self, after: "FrameMap") -> "FrameMap":
        """Both in a row: (W₂ W₁, W₂ b₁ + b₂)."""
        weight = torch.einsum("oc,c...->o...", after.weight, self.weight)
        return FrameMap(weight, after.weight @ self.bias + after.bias)

    def beside(self, other: "FrameMap") -> "FrameMap":
        """The sum of both: (W₁ + W₂, b₁ + b₂)."""
        return FrameMap(self.weight + other.weight, self.bias + other.bias)


def folded(layer: Any) -> FrameMap:
    """The 1×1 layer or the dense convolution of a sub-block or a shortcut, with the norm after it:
    W g / sqrt(σ² + eps) and (b − μ) g / sqrt(σ² + eps) + β, in float64."""
    conv = layer.channel if hasattr(layer, "channel") else layer.conv
    norm: Any = unwrapped(layer.norm)
    affine: Any = unwrapped(norm.fuse())
    scale, shift = affine.scale.double(), affine.shift.double()
    matrix = conv.matrix()
    weight, bias = (conv.weight, None) if matrix is None else matrix[:2]
    weight = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    return FrameMap(weight, shift if bias is None else bias.double() * scale + shift)


def taps_after(first: Tensor, second: Tensor) -> Tensor:
    """The taps of two filters in a row, w[n] = Σ_k w₂[k] w₁[n − k].

    Shape: `[C, 1, K₁]` and `[C, 1, K₂]` → `[C, 1, K₁ + K₂ − 1]`.
    """
    channels, _, taps = second.shape
    whole = F.conv1d(first.transpose(0, 1), second.flip(2), padding=taps - 1, groups=channels)
    return whole.transpose(0, 1)


@torch.no_grad()
def merged(model: Model, plan: Sequence[Segment]) -> Model:
    """The net whose sub-blocks are the segments of `plan`, in evaluation.

    In a row that has one of several sub-blocks, the norms are folded into the weights: its norm is
    `none`, which is a bias.
    """
    blocks = sub_blocks(model.config, model.frontend.channels_out(1))
    old = model.config.rows()
    rows: list[Row] = []
    origins: list[int] = []
    weights: dict[str, Tensor] = {}
    for row, found in groupby(plan, lambda segment: blocks[segment.start].row):
        own, name = list(found), row_name(len(rows))
        origins.append(row)
        rows.append(old[row])
        if any(segment.merges for segment in own):
            rows[-1] = _block(model, old[row][0], blocks, own), old[row][1]
            for key, value in _weights(model, blocks, own).items():
                weights[f"{name}.{key}"] = value
    made = with_rows(model, rows, origins)
    made.load_state_dict(weights, strict=False)
    return made


def sub_block_name(block: SubBlock) -> str:
    """The name of a sub-block's layer in the model, such as `encoder.0.sum.body.2`."""
    return f"{row_name(block.row)}.{_body(block)}.{2 * block.place}"


def merged_names(blocks: Sequence[SubBlock], plan: Sequence[Segment]) -> dict[Segment, str]:
    """The name of each segment's layer in the net of a plan."""
    names: dict[Segment, str] = {}
    rows = groupby(plan, lambda segment: blocks[segment.start].row)
    for row, (_, own) in enumerate(rows):
        for place, segment in enumerate(own):
            first = blocks[segment.start]._replace(row=row, place=place)
            names[segment] = sub_block_name(first)
    return names


def _body(block: SubBlock) -> str:
    return "sum.body" if block.block.residual else "body"


def _block(model: Model, row: Block, blocks: Sequence[SubBlock], own: Sequence[Segment]) -> Block:
    """The row that computes the segments which start in `row`."""
    last = [blocks[segment.stop - 1].block for segment in own]
    return replace(
        row,
        channels=last[-1].channels,
        repeat=len(own),
        kernel=_one_or_each(kernel(blocks[s.start : s.split + 1]) for s in own),
        activation=_one_or_each(block.activation or model.config.activation for block in last),
        norm="none",
        channel="linear",
    )


def _one_or_each(values: Iterable[Any]) -> Any:
    """The value that all have, or all values."""
    each = tuple(values)
    return each[0] if each.count(each[0]) == len(each) else each


def _weights(model: Model, blocks: Sequence[SubBlock], own: Sequence[Segment]) -> dict[str, Tensor]:
    """The tensors of the row that computes the segments which start in it."""
    first = blocks[own[0].start]
    after = _frame_maps(model, blocks[own[0].start : own[-1].stop], first.row)
    found: dict[str, Tensor] = {}
    for place, segment in enumerate(own):
        name = f"{_body(first)}.{2 * place}"
        layers: dict[int, Any] = {
            at: model.get_submodule(sub_block_name(blocks[at]))
            for at in range(segment.start, segment.stop)
            if blocks[at].row == first.row
        }
        maps = [folded(layer) for at, layer in layers.items() if at >= segment.split]
        whole = reduce(FrameMap.then, [*maps, *after] if segment is own[-1] else maps)
        if first.block.separable:
            filters = [layers[at].mixer.weight for at in range(segment.start, segment.split + 1)]
            found[f"{name}.mixer.weight"] = reduce(taps_after, filters)
            found[f"{name}.channel.weight"] = whole.weight
        else:
            found[f"{name}.conv.weight"] = whole.weight.reshape(*whole.weight.shape[:2], -1)
        found[f"{name}.norm.module.bias"] = whole.bias
    if first.block.residual:
        # the biases of the rows after it are in the body already
        linear = [FrameMap(x.weight, torch.zeros_like(x.bias)) for x in after]
        shortcut = folded(model.get_submodule(f"{row_name(first.row)}.sum.shortcut"))
        whole = reduce(FrameMap.then, [shortcut, *linear])
        found["sum.shortcut.channel.weight"] = whole.weight
        found["sum.shortcut.norm.module.bias"] = whole.bias
    return found


def _frame_maps(model: Model, blocks: Sequence[SubBlock], first: int) -> list[FrameMap]:
    """What each row after row `first` computes without its filters and inner activations."""
    maps = []
    for row, found in groupby(blocks, lambda block: block.row):
        if row != first:
            own = list(found)
            layers = [model.get_submodule(sub_block_name(block)) for block in own]
            whole = reduce(FrameMap.then, map(folded, layers))
            if own[0].block.residual:
                whole = whole.beside(folded(model.get_submodule(f"{row_name(row)}.sum.shortcut")))
            maps.append(whole)
    return maps
