"""Imports QuartzNet, MatchboxNet and MarbleNet from NeMo archives, with their conventions."""

import re
from collections.abc import Mapping
from pathlib import Path
from statistics import mode
from typing import Any

from speechkit.component import Spec
from speechkit.errors import CheckpointError, ConfigError
from speechkit.importers import Frames
from speechkit.importers.nemo.archive import read_members, read_yaml
from speechkit.importers.nemo.frontend import Conventions, FrontEnd, read_frontend
from speechkit.importers.nemo.layout import Tensors, block_name, body_name, with_size
from speechkit.importers.nemo.pickled import read_weights
from speechkit.importers.nemo.section import MOST, Section
from speechkit.limits import MAX_ARCHIVE_BYTES
from speechkit.models import Block, MarbleNet, MatchboxNet, Model, Net, QuartzNet
from speechkit.nn import LookAhead
from speechkit.text import ENGLISH_LABELS

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MOST_CONFIG_BYTES = 1 << 20
INVARIANT_SINCE = (2, 5)
"""The first NeMo version with log-mels that do not depend on the padding of a batch."""

TASKS = {
    "ConvASRDecoder": "ctc",
    "ConvASRDecoderClassification": "clip",
    "MultiLayerPerceptron": "frame",
}
MODELS = {"EncDecCTCModel", "EncDecClassificationModel", "EncDecFrameClassificationModel"}
ACTIVATIONS = {
    "relu": Spec("relu"),
    "silu": Spec("silu"),
    "swish": Spec("silu"),
    "gelu": Spec("gelu"),
    "hardtanh": Spec("hardtanh", {"low": -1.0, "high": 1.0}),
}
UNUSED = (
    *("loss.", "spec_augmentation.", "crop_or_pad.", "_accuracy.", "encoder.seq_range"),
    "preprocessor.dtype_sentinel_tensor",
)
"""Tensors that only training needs, or that hold no weights."""


def read_nemo(path: Path, frames: Frames | None = None) -> Model:
    """The model in an archive; `frames` overrides the rule of its `nemo_version`.

    Source: NeMo `JasperBlock`, `ConvASREncoder` and `save_to`, versions 1.0 to 2.5.
    """
    members = read_members(path, {CONFIG: MOST_CONFIG_BYTES, WEIGHTS: MAX_ARCHIVE_BYTES})
    stored = read_yaml(members[CONFIG], f"{path}: {CONFIG}")
    given = read_weights(members[WEIGHTS], f"{path}: {WEIGHTS}")
    kept = {name: x for name, x in given.items() if not name.startswith(UNUSED)}
    weights = Tensors(kept, f"{path}: the weights")
    inner = stored.get("model")
    root = inner if isinstance(inner, dict) and "encoder" in inner else stored
    _check_class(path, root)
    decoder = Section.of(root, "decoder", str(path))
    name = decoder.target
    if name not in TASKS:
        decoder.refuse("_target_", name, f"speechkit has {', '.join(TASKS)}")
    encoder = Encoder(Section.of(root, "encoder", str(path)))
    conventions = Conventions(
        invariant=(frames or _rule(stored, root)) == "invariant",
        mfcc_invariant=frames == "invariant",
        masked=encoder.masked,
        reads_padding=TASKS[name] == "clip" or not encoder.masked,
        clip_frames=_clip_frames(root, path),
    )
    preprocessor = Section.of(root, "preprocessor", str(path))
    frontend = read_frontend(preprocessor, weights, conventions)
    if frontend.features != encoder.features:
        raise CheckpointError(
            f"{path}: the preprocessor gives {frontend.features} features, "
            f"encoder.feat_in is {encoder.features}"
        )
    _take_blocks(encoder, weights)
    labels = _labels(decoder, root, TASKS[name])
    _take_decoder(TASKS[name], encoder.blocks[-1].channels, len(labels), weights)
    weights.done()
    return weights.model(_config(path, TASKS[name], labels, encoder, frontend))


class Encoder:
    """The blocks as the config describes them."""

    def __init__(self, section: Section) -> None:
        name = section.target
        if name != "ConvASREncoder":
            section.refuse("_target_", name, "speechkit has ConvASREncoder")
        self.features = section.integer("feat_in", most=MOST)
        self.masked = section.flag("conv_mask", True)
        activation = section.get("activation")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            section.refuse("activation", activation, f"speechkit has {', '.join(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        section.only(normalization_mode="batch", frame_splicing=1, quantize=False)
        section.ignore("init_mode", "norm_groups")
        residual_mode = section.get("residual_mode", "add")
        rows = section.get("jasper")
        if not isinstance(rows, list) or not rows or not all(isinstance(x, dict) for x in rows):
            section.refuse("jasper", rows, "give a list of blocks")
        section.done()
        self.blocks: list[Block] = []
        self.lookahead: list[LookAhead] = []
        self.dropouts: list[float] = []
        for index, row in enumerate(rows):
            where = f"{section.where}.jasper.{index}"
            self._read_row(Section(row, where, (*section.around, rows)), residual_mode)

    def _read_row(self, row: Section, residual_mode: str) -> None:
        kernel = max(int(row.integer("kernel", 11) * row.number("kernel_size_factor", 1.0)), 1)
        kernel += 1 - kernel % 2
        stride, dilation = row.integer("stride", 1), row.integer("dilation", 1)
        residual = row.flag("residual", True)
        merge = row.get("residual_mode", residual_mode)
        # in the second mode NeMo's shortcut has the stride; with stride 1 both are equal
        if residual and merge not in ("add", "stride_add"):
            row.refuse("residual_mode", merge, "speechkit has residual_mode=add only")
        ahead = row.integer("future_context", -1, least=-1)
        if ahead >= 0 and dilation > 1:
            row.refuse("future_context", ahead, "NeMo's own output is longer than its input there")
        row.only(groups=1, heads=-1, se=False, residual_dense=False)
        row.ignore("se_reduction_ratio", "se_context_size", "se_context_window")
        row.ignore("se_interpolation_mode", "stride_last")
        self.lookahead.append(ahead if 0 <= ahead < kernel else "same")
        self.dropouts.append(row.number("dropout", 0.2))
        try:
            self.blocks.append(
                Block(
                    channels=row.integer("filters"),
                    kernel=kernel,
                    repeat=row.integer("repeat", 3),
                    stride=stride,
                    dilation=dilation,
                    residual=residual,
                    separable=row.flag("separable", False),
                )
            )
        except ConfigError as error:
            raise CheckpointError(f"{row.where}: {error}") from error
        row.done()


def _take_blocks(encoder: Encoder, weights: Tensors) -> None:
    infix = ".conv" if encoder.masked else ""
    c_in = encoder.features
    for index, block in enumerate(encoder.blocks):
        c_out = block.channels
        theirs = f"encoder.encoder.{index}"
        width = c_in
        for repeat in range(block.repeat):
            ours = body_name(index, block, repeat)
            if block.separable:
                # per sub-block depthwise, pointwise, norm, activation, dropout
                slot = 5 * repeat
                depthwise = f"{theirs}.mconv.{slot}{infix}.weight"
                weights.take(depthwise, f"{ours}.mixer.weight", (width, 1, block.kernels[repeat]))
                slot += 1
                pointwise = f"{theirs}.mconv.{slot}{infix}.weight"
                weights.take_pointwise(pointwise, f"{ours}.channel.weight", (c_out, width))
            else:
                slot = 4 * repeat
                dense = f"{theirs}.mconv.{slot}{infix}.weight"
                weights.take(dense, f"{ours}.conv.weight", (c_out, width, block.kernels[repeat]))
            _take_norm(f"{theirs}.mconv.{slot + 1}", f"{ours}.norm", c_out, weights)
            width = c_out
        if block.residual:
            ours = f"{block_name(index)}.sum.shortcut"
            shortcut = f"{theirs}.res.0.0{infix}.weight"
            weights.take_pointwise(shortcut, f"{ours}.channel.weight", (c_out, c_in))
            _take_norm(f"{theirs}.res.0.1", f"{ours}.norm", c_out, weights)
        c_in = c_out


def _take_norm(theirs: str, ours: str, channels: int, weights: Tensors) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        weights.take(f"{theirs}.{name}", f"{ours}.{name}", (channels,))
    weights.take_count(f"{theirs}.num_batches_tracked", f"{ours}.num_batches_tracked")


def _take_decoder(task: str, channels: int, labels: int, weights: Tensors) -> None:
    theirs = "decoder.layer0" if task == "frame" else "decoder.decoder_layers.0"
    if task == "ctc":
        weights.take_pointwise(f"{theirs}.weight", "head.linear.weight", (labels + 1, channels))
        weights.take(f"{theirs}.bias", "head.linear.bias", (labels + 1,))
    else:
        weights.take(f"{theirs}.weight", "head.linear.weight", (labels, channels))
        weights.take(f"{theirs}.bias", "head.linear.bias", (labels,))


def _labels(decoder: Section, root: Mapping[str, Any], task: str) -> tuple[str, ...]:
    """The labels in the order of the scores; numbers if a classifier's config has none."""
    count = decoder.integer("num_classes", -1, least=-1)
    labels = decoder.get("vocabulary") if task == "ctc" else None
    for part in (root, *(root.get(f"{use}_ds") for use in ("train", "validation", "test"))):
        if labels is None and isinstance(part, dict):
            labels = Section(part, decoder.where, (root,)).get("labels")
    if task == "frame":
        if (layers := decoder.integer("num_layers", 2)) != 1:
            decoder.refuse("num_layers", layers, "speechkit has one layer")
        decoder.ignore("hidden_size", "activation", "log_softmax")
    elif task == "clip":
        decoder.only(pooling_type="avg")
    else:
        decoder.only(add_blank=True)
    decoder.ignore("feat_in", "init_mode", "return_logits")
    decoder.done()
    if labels is None and task != "ctc" and count > 0:
        labels = list(range(count))
    if not isinstance(labels, list) or not all(type(label) in (str, int) for label in labels):
        decoder.refuse("labels", labels, "give a list of texts; quote words such as 'yes' and 'on'")
    if count not in (-1, len(labels)):
        decoder.refuse("num_classes", count, f"the config has {len(labels)} labels")
    return tuple(map(str, labels))


def _config(
    path: Path, task: str, labels: tuple[str, ...], encoder: Encoder, frontend: FrontEnd
) -> Net:
    symmetric = set(encoder.lookahead) == {"same"}
    shared: dict[str, Any] = {
        "labels": labels,
        "blocks": tuple(encoder.blocks),
        "sample_rate": frontend.sample_rate,
        "frontend": frontend.spec,
        "activation": encoder.activation,
        "lookahead": "same" if symmetric else tuple(encoder.lookahead),
        # the net has one value for all blocks, and only training uses it
        "dropout": mode(encoder.dropouts),
    }
    clip = Spec("clip", {"pool": "average:nemo_compat=true"})
    try:
        if task == "ctc":
            english = set(labels) == set(ENGLISH_LABELS)
            normalization = "english" if english else "none"
            return with_size(QuartzNet(**shared, normalization=normalization))
        if task == "frame":
            return with_size(MarbleNet(**shared, frame_level=True))
        # the second class of a detector is speech
        if len(labels) == 2 and labels[1] == "speech":
            return with_size(MarbleNet(**shared, head=clip))
        return with_size(MatchboxNet(**shared, head=clip))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_class(path: Path, root: Mapping[str, Any]) -> None:
    name = str(root.get("target") or "EncDecCTCModel")[:200].rpartition(".")[2]
    if name not in MODELS:
        raise CheckpointError(f"{path} is a {name}; speechkit reads {', '.join(sorted(MODELS))}")


def _clip_frames(root: Mapping[str, Any], path: Path) -> int:
    """The number of frames to which NeMo crops or pads each clip, 0 if it does not."""
    if root.get("crop_or_pad_augment") is None:
        return 0
    section = Section.of(root, "crop_or_pad_augment", str(path))
    name = section.target
    if name != "CropOrPadSpectrogramAugmentation":
        section.refuse("_target_", name, "speechkit has CropOrPadSpectrogramAugmentation")
    frames = section.integer("audio_length")
    section.done()
    return frames


def _rule(*configs: Mapping[str, Any]) -> Frames:
    """The rule of the NeMo version that wrote the archive, the older one if it is not given."""
    for config in configs:
        if match := re.match(r"(\d{1,4})\.(\d{1,4})", str(config.get("nemo_version"))[:20]):
            version = int(match[1]), int(match[2])
            return "invariant" if version >= INVARIANT_SINCE else "nemo1"
    return "nemo1"
