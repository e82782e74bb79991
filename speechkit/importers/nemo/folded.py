"""Imports a QuartzNet with folded batch norms from one safetensors file.

The layout: `blocks.{b}.sub.{r}.depthwise.weight` `[C, 1, k]` (absent in a dense 1×1 block),
`blocks.{b}.sub.{r}.pointwise.{weight,bias}` `[C', C, 1]`, `blocks.{b}.residual.pointwise.*` beside
a block with a residual, `decoder.{weight,bias}`; metadata `labels`, `blank` and `frontend`.
"""

import json
import re
from pathlib import Path

import safetensors
from safetensors import SafetensorError

from speechkit.checkpoint import read_tensors
from speechkit.component import Spec
from speechkit.errors import CheckpointError, ConfigError
from speechkit.importers import Frames
from speechkit.importers.nemo.layout import Tensors, block_name, body_name, with_size
from speechkit.limits import MAX_ARCHIVE_BYTES
from speechkit.models import Block, Model, QuartzNet
from speechkit.text import ENGLISH_LABELS

FRONTENDS = {"64 log-mel per_feature, v1 rule (reflect)": Spec("log_mel", {"compat": "nemo1"})}
"""The front ends that the metadata may give."""
NAME = re.compile(r"blocks\.(\d{1,3})\.sub\.(\d{1,3})\.pointwise\.weight")


def read_folded(path: Path, frames: Frames | None = None) -> Model:
    """The model in a file, in float32; `frames` overrides the rule in its metadata."""
    if (size := path.stat().st_size) > MAX_ARCHIVE_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes; at most {MAX_ARCHIVE_BYTES:,} are read")
    labels, frontend = _metadata(path)
    if frames is not None:
        frontend = Spec("log_mel", {"compat": "nemo1"} if frames == "nemo1" else {})
    weights = Tensors(read_tensors(path), str(path))
    blocks = _blocks(weights)
    english = set(labels) == set(ENGLISH_LABELS)
    try:
        config = with_size(
            QuartzNet(
                labels=labels,
                blocks=blocks,
                norm="none",
                frontend=frontend,
                normalization="english" if english else "none",
            )
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    c_in = 64
    for index, block in enumerate(blocks):
        _take_block(index, block, c_in, weights)
        c_in = block.channels
    weights.take_pointwise("decoder.weight", "head.linear.weight", (len(labels) + 1, c_in))
    weights.take("decoder.bias", "head.linear.bias", (len(labels) + 1,))
    weights.done()
    return weights.model(config)


def _metadata(path: Path) -> tuple[tuple[str, ...], Spec]:
    """Labels and front end; the blank must come after the labels."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if lacking := sorted({"labels", "blank", "frontend"} - set(metadata)):
        raise CheckpointError(f"{path} has no {lacking[0]!r} in its metadata; see docs/import.md")
    labels = tuple(metadata["labels"])
    if metadata["blank"] != str(len(labels)):
        raise CheckpointError(
            f"{path}: blank is {metadata['blank'][:20]} of {len(labels)} labels; it must come last"
        )
    if metadata["frontend"] not in FRONTENDS:
        given, known = (json.dumps(x)[:80] for x in (metadata["frontend"], [*FRONTENDS]))
        raise CheckpointError(f"{path}: frontend {given} is not one of {known}")
    return labels, FRONTENDS[metadata["frontend"]]


def _blocks(weights: Tensors) -> tuple[Block, ...]:
    """The table of blocks, from the shapes of the weights. Strides and dilations are QuartzNet's:
    stride 2 in the first block, dilation 2 in the last one before the dense block."""
    repeats: dict[int, int] = {}
    for name in weights.left:
        if match := NAME.fullmatch(name):
            index = int(match[1])
            repeats[index] = max(repeats.get(index, 0), int(match[2]) + 1)
    last = len(repeats) - 1
    if last < 2 or sorted(repeats) != list(range(last + 1)):
        raise CheckpointError(f"{weights.where} has no blocks.0, blocks.1, ... of a QuartzNet")
    blocks = []
    for index in range(last + 1):
        depthwise = weights.left.get(f"blocks.{index}.sub.0.depthwise.weight")
        pointwise = weights.left.get(f"blocks.{index}.sub.0.pointwise.weight")
        shaped = all(x is None or x.ndim == 3 for x in (pointwise, depthwise))
        if pointwise is None or not shaped or (depthwise is None) != (index == last):
            raise CheckpointError(
                f"{weights.where}: block {index} of {last + 1} is not a QuartzNet's; "
                "all are separable but the last"
            )
        blocks.append(
            Block(
                channels=pointwise.shape[0],
                kernel=1 if depthwise is None else depthwise.shape[-1],
                repeat=repeats[index],
                stride=2 if index == 0 else 1,
                dilation=2 if index == last - 1 else 1,
                residual=f"blocks.{index}.residual.pointwise.weight" in weights.left,
                separable=depthwise is not None,
            )
        )
    return tuple(blocks)


def _take_block(index: int, block: Block, c_in: int, weights: Tensors) -> None:
    theirs, width, c_out = f"blocks.{index}", c_in, block.channels
    for repeat in range(block.repeat):
        sub, ours = f"{theirs}.sub.{repeat}", body_name(index, block, repeat)
        if block.separable:
            shape = width, 1, block.kernels[repeat]
            weights.take(f"{sub}.depthwise.weight", f"{ours}.mixer.weight", shape)
            pointwise = f"{ours}.channel.weight"
            weights.take_pointwise(f"{sub}.pointwise.weight", pointwise, (c_out, width))
        else:
            weights.take(f"{sub}.pointwise.weight", f"{ours}.conv.weight", (c_out, width, 1))
        weights.take(f"{sub}.pointwise.bias", f"{ours}.norm.module.bias", (c_out,))
        width = c_out
    if block.residual:
        sub, ours = f"{theirs}.residual", f"{block_name(index)}.sum.shortcut"
        weights.take_pointwise(f"{sub}.pointwise.weight", f"{ours}.channel.weight", (c_out, c_in))
        weights.take(f"{sub}.pointwise.bias", f"{ours}.norm.module.bias", (c_out,))
