"""The size, work, look-ahead and latency of a model, and whether it can stream."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor, nn

from speechkit.errors import StreamError
from speechkit.models.model import Model, refuse_prepared
from speechkit.nn import Chunk, StreamLayer, Taps, describes
from speechkit.plans.about import Profile
from speechkit.plugins import registry


@torch.inference_mode()
def profile(model: Model) -> Profile:
    """Measures a model; its mode does not change."""
    refuse_prepared(model, "profile")
    layer = model.stream_layer()
    with _evaluation(model):
        reason = why_not_streamable(model)
        macs, others = _macs_per_s(model)
    return Profile(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs_per_s=macs,
        not_counted=others,
        frame_s=model.frame_s,
        lookahead_s=_seconds(layer.right, model.sample_rate),
        receptive_field_s=_seconds(layer.left + 1 + layer.right, model.sample_rate),
        latency_s=None if reason else model.latency_s,
        streamable=reason is None,
        why_not_streamable=reason,
    )


@torch.inference_mode()
def why_not_streamable(model: Model) -> str | None:
    """The part that reads whole utterances and what to use instead, or None; mode unchanged."""
    for kind, spec in model.config.components():
        time = registry().find(kind, spec.name).component.time
        # a clip head pools over the frames so far instead
        if time == "utterance" and not (kind == "head" and model.per_clip):
            return f"{kind} {spec} reads the whole utterance; choose another {kind}"
    with _evaluation(model):
        return _refusal(model.stream_layer(), next(model.parameters()))


def _macs_per_s(model: Model) -> tuple[int, tuple[str, ...]]:
    """Multiply-adds for one second of features, and the types of layers that are not counted."""
    counted: dict[str, nn.Module] = {}
    others: set[str] = set()
    for part in (model.stem, model.encoder, model.head):
        for layer in _with_work(part):
            if _counts(layer):
                counted[str(len(counted))] = layer
            else:
                others.add(type(layer).__name__)
    frontend = model.frontend
    frames = model.sample_rate * frontend.rate // frontend.stride
    weight = next(model.parameters())
    with Taps(counted) as taps:
        model.score(Chunk.of(weight.new_zeros(1, frontend.channels_out(1), frames)))
    work = sum(_macs(layer, args[0], output) for _, layer, args, output in taps.take())
    return work, tuple(sorted(others))


def _with_work(module: nn.Module) -> Iterator[nn.Module]:
    """The submodules with known multiply-adds, and others that hold a matrix."""
    if _counts(module):
        yield module
        return
    if any(map(_is_matrix, module.parameters(recurse=False))):
        yield module
    for child in module.children():
        yield from _with_work(child)


def _is_matrix(parameter: Tensor) -> bool:
    # slopes and gains of channels are often of shape [C, 1]
    return sum(size > 1 for size in parameter.shape) > 1


def _counts(module: nn.Module) -> bool:
    return describes(module, "macs") or type(module) in (nn.Linear, nn.Conv1d)


def _macs(layer: nn.Module, given: Chunk | Tensor, output: Chunk | Tensor) -> int:
    """The multiply-adds of one call."""
    if describes(layer, "macs"):
        x = given.x if isinstance(given, Chunk) else given
        work: int = layer.macs(x.shape[2])  # type: ignore[operator]
        return len(x) * work
    # torch's layers: one multiply-add per weight and output frame or row
    assert isinstance(output, Tensor)
    weight = layer.get_parameter("weight")
    return weight.numel() * (output.numel() // len(weight))


def _refusal(layer: StreamLayer, weight: Tensor) -> str | None:
    """The error of the layer in the smallest possible step, None if it streams."""
    state = layer.init_state(1, 1, weight.dtype, weight.device)
    try:
        layer.step(Chunk.of(weight.new_zeros(1, 1, layer.stride)), state)
    except StreamError as error:
        return str(error)
    return None


def _seconds(samples: Fraction | float, sample_rate: int) -> float | None:
    return None if math.isinf(samples) else float(samples / sample_rate)


@contextmanager
def _evaluation(model: Model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
