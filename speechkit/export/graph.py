"""The graph to export: a module over plain tensors, its inputs and outputs, and metadata."""

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit import ops
from speechkit.config import to_dict
from speechkit.errors import CheckpointError, StreamError
from speechkit.export.simple import simplified
from speechkit.models import Model
from speechkit.models.profile import why_not_streamable
from speechkit.nn import Chunk, Serial, StreamLayer
from speechkit.nn.states import rebuilt, tensors_of
from speechkit.packages import DISTRIBUTION
from speechkit.plans.timing import blocks_to_end, samples_to_end
from speechkit.streaming.nets import block_strides
from speechkit.tasks import task_of
from speechkit.tasks.plans import about_of
from speechkit.text.align import EARLY_S

NOISY_LOGGERS = ("", "torch.onnx", "torch._export", "torch.fx.experimental.symbolic_shapes")
"""The loggers with warnings that a user can do nothing about."""
FORMAT = 1
"""The version of the metadata's format."""

Example = tuple[Tensor, Tensor]
"""Audio `[B, N]` of B ≥ 2 rows, and their lengths `[B]`."""
Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Maps inputs to outputs, both in order: the module, or the exported file."""


class UnexportableError(CheckpointError):
    """A model that cannot be traced, or whose exported form does not compute the same."""


@dataclass(frozen=True)
class Graph:
    """A module to export, and the `model` with the same inputs and outputs, to compare with.

    `inputs` and `outputs` are names in order: x, its valid frames, then the states. `axes` names
    the dynamic axes of each input. `trials` are sequences of calls `[x, valid]`. Each sequence
    starts with the states `start(batch)`. The first call is the one to trace.
    """

    module: nn.Module
    model: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: tuple[dict[int, str], ...]
    trials: list[list[tuple[Tensor, Tensor]]]
    start: Callable[[int], list[Tensor]]
    metadata: dict[str, Any]

    @property
    def traced(self) -> tuple[Tensor, ...]:
        """The inputs of the call to trace."""
        x, valid = self.trials[0][0]
        return (x, valid, *self.start(len(x)))

    def shapes(self, free: Callable[[str], Any]) -> tuple[Any, ...]:
        """The dynamic axes in torch's form, with `free(name)` in place of each name."""
        each = [{axis: free(name) for axis, name in axes.items()} for axes in self.axes]
        return (*each[:2], tuple(each[2:])) if len(each) > 2 else tuple(each)


def graph_of(model: Model, example: Example, streaming: bool, features: bool) -> Graph:
    """The graph of a whole utterance, or of one block of a stream.

    It takes audio; without `features` it takes the output of the front end.
    """
    if streaming and (reason := why_not_streamable(model)):
        raise StreamError(f"{reason}; or export without --streaming")
    # a copy, so that the model given does not change
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    c = Chunk.of(example[0].unsqueeze(1), example[1])
    if not features:
        c = model.frontend(c)
    return _stream(model, c, features) if streaming else _offline(model, c, features)


class Offline(nn.Module):
    """Scores and their lengths from audio `[B, N]` or features `[B, F, T]`, and their lengths."""

    def __init__(self, model: Model, features: bool) -> None:
        super().__init__()
        self.model, self.features = model, features

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.features:
            scores, lengths = self.model(x, lengths)
        else:
            scores, lengths = self.model.score(Chunk.of(x, lengths))
        return scores, lengths


class Step(nn.Module):
    """`StreamLayer.step` over plain tensors: x `[B, n]` or `[B, F, n]`, valid `[B, n]`, states.

    Empty states, such as the past of a kernel of 1, are no inputs or outputs.
    """

    def __init__(self, layer: StreamLayer, channels: int, features: bool) -> None:
        super().__init__()
        self.layer, self.channels, self.features = layer, channels, features
        self.like = layer.init_state(1, channels)

    def start(self, batch: int) -> list[Tensor]:
        """The states before the first block."""
        state = self.layer.init_state(batch, self.channels)
        return [tensor for tensor in tensors_of(state) if tensor.numel()]

    def forward(self, x: Tensor, valid: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given = iter(states)

        def filled() -> Iterator[Tensor]:
            for like in tensors_of(self.like):
                shape = (x.shape[0], *like.shape[1:])
                yield next(given) if like.numel() else like.new_empty(shape)

        c = Chunk(x.unsqueeze(1) if self.features else x, valid)
        out, after = self.layer.step(c, rebuilt(self.like, filled()))
        kept = [tensor for tensor in tensors_of(after) if 0 not in tensor.shape[1:]]
        return out.x.transpose(1, 2), out.valid, *kept


@contextmanager
def tracing(form: str) -> Iterator[None]:
    """Silences the warnings of torch's exporters, and turns their errors into one line."""
    levels = {name: logging.getLogger(name).level for name in NOISY_LOGGERS}
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stderr(io.StringIO()),
            torch.no_grad(),
            ops.use_impl("torch"),
        ):
            warnings.simplefilter("ignore")
            yield
    except (RuntimeError, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next((line for line in str(cause).splitlines() if line.strip()), repr(cause))
        raise UnexportableError(f"this model has no {form} form: {reason.strip()}") from error
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _offline(model: Model, c: Chunk, features: bool) -> Graph:
    plain = simplified(model)
    x, lengths = c.x.squeeze(1) if features else c.x, c.lengths
    time, half = x.ndim - 1, x.shape[-1] // 2
    name = "audio" if features else "features"
    return Graph(
        module=Offline(plain, features),
        model=Offline(model, features),
        inputs=(name, "lengths"),
        outputs=("scores", "score_lengths"),
        axes=({0: "batch", time: "samples" if features else "frames"}, {0: "batch"}),
        # the batch, a single row, and half the time, to find sizes that became constants
        trials=[
            [(x, lengths)],
            [(x[:1, ..., : int(lengths[0])], lengths[:1])],
            [(x[..., :half], lengths.clamp(max=half))],
        ],
        start=lambda batch: [],
        metadata={**_describe(model, name), "streaming": False, "latency_s": None},
    )


def _stream(model: Model, c: Chunk, features: bool) -> Graph:
    layer = model.stream_layer(task_of(model).window_s)
    strides = block_strides(about_of(model), layer.stride, model.sample_rate)
    latency_s = (layer.delay + strides * layer.rate) * model.frame_s
    if not features:
        parts: dict[str, Any] = dict(layer.named_children())
        del parts["frontend"]
        layer = Serial(**parts)
    step = Step(layer, c.x.shape[1], features)
    block = strides * layer.stride
    blocks = blocks_to_end(layer, c.x.shape[2], block)
    missing = blocks * block - c.x.shape[2]
    x, valid = F.pad(c.x, (0, missing)), F.pad(c.valid, (0, missing))
    if features:
        x = x.squeeze(1)
    states = [f"state_{i}" for i in range(len(step.start(1)))]
    name = "audio" if features else "features"
    return Graph(
        module=Step(simplified(layer), c.x.shape[1], features),
        model=step,
        inputs=(name, "valid", *states),
        outputs=("scores", "scores_valid", *(f"{state}_out" for state in states)),
        axes=({0: "batch"},) * (len(states) + 2),
        trials=[
            list(zip(x[:rows].split(block, -1), valid[:rows].split(block, -1), strict=True))
            for rows in (len(x), 1)
        ],
        start=step.start,
        metadata={
            **_describe(model, name),
            "streaming": True,
            "latency_s": latency_s,
            "block": block,
            "flush": samples_to_end(layer),
            "states": [_state(*named) for named in zip(states, step.start(1), strict=True)],
        },
    )


def _state(name: str, start: Tensor) -> dict[str, Any]:
    """The metadata of a state: its initial value, zeros or the numbers of `start` in order."""
    row = {"name": name, "shape": list(start.shape), "bool": start.dtype == torch.bool}
    return {**row, "start": start.flatten().tolist()} if start.any() else row


def _describe(model: Model, name: str) -> dict[str, Any]:
    config = model.config
    rules = ("postprocess", "spotting", "normalization", "endpointing", "confidence")
    return {
        "format": FORMAT,
        "speechkit": metadata.version(DISTRIBUTION),
        "input": name,
        "kind": config.kind,
        "task": config.task,
        "labels": list(model.labels),
        "sample_rate": model.sample_rate,
        "frame_s": model.frame_s,
        "shortest": model.frontend.stride,
        "window_s": task_of(model).window_s,
        "early_s": EARLY_S,
        **{rule: to_dict(getattr(config, rule)) for rule in rules if hasattr(config, rule)},
    }
