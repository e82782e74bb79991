"""A Serial for training in which one op computes a norm and the layers after it."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeGuard

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from speechkit.nn.stream import Chunk, FrameWise, Residual, Serial, StreamLayer
from speechkit.ops.describes import describes

_Run = Callable[[Chunk], Chunk]
HOOKS = "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"


class BatchNormalizer(Protocol):
    """A norm with an op that can also add a residual and apply a ReLU."""

    def normalize_batch(
        self, c: Chunk, relu: bool = False, residual: Tensor | None = None
    ) -> Chunk: ...


class FusedSerial(Serial):
    """A Serial with fewer memory accesses in training.

        BatchNorm, ReLU                          →  one op
        a body that ends in BatchNorm, Add, ReLU →  one op

    Layers with hooks, subclasses and norms in evaluation are not fused.
    """

    def forward(self, c: Chunk) -> Chunk:
        if not self.training or _has_any_global_hook():
            return super().forward(c)
        return _through(_runs(_row(self)), c)

    lower = Serial.lower
    lower_to_rings = Serial.lower_to_rings


def _through(runs: list[_Run], c: Chunk) -> Chunk:
    for run in runs:
        c = run(c)
    return c


def _row(layer: Serial) -> list[StreamLayer]:
    """The layers of a Serial and of the Serials in it, in order."""
    return [part for child in layer for part in (_row(child) if _is_row(child) else [child])]


def _runs(row: list[StreamLayer]) -> list[_Run]:
    """The functions to call in order."""
    runs: list[_Run] = list(row[:1])
    for layer, after in pairwise(row):
        if _is_relu(after) and (fused := _with_relu(layer)):
            runs[-1] = fused
        else:
            runs.append(after)
    return runs


def _with_relu(layer: StreamLayer) -> _Run | None:
    """One op for a layer and a ReLU after it, if there is one."""
    if _is_norm(layer):
        return partial(layer.normalize_batch, relu=True)
    if _is_sum(layer) and _is_row(layer.body):
        body = _row(layer.body)
        if body and _is_norm(norm := body[-1]):
            return partial(_sum_with_relu, _runs(body[:-1]), norm, layer.shortcut)
    return None


def _sum_with_relu(
    head: list[_Run], norm: BatchNormalizer, shortcut: StreamLayer, c: Chunk
) -> Chunk:
    return norm.normalize_batch(_through(head, c), True, shortcut(c).x)


def _is_row(layer: StreamLayer) -> TypeGuard[Serial]:
    return _is_just(layer, Serial, FusedSerial)


def _is_norm(layer: StreamLayer) -> TypeGuard[BatchNormalizer]:
    return layer.training and describes(layer, "normalize_batch") and _is_just(layer, type(layer))


def _is_sum(layer: StreamLayer) -> TypeGuard[Residual]:
    if not isinstance(layer, Residual):
        return False
    merge = layer.merge
    return _is_just(layer, Residual) and describes(merge, "adds") and _is_just(merge, type(merge))


def _is_relu(layer: StreamLayer) -> bool:
    if not _is_just(layer, FrameWise):
        return False
    module: Any = layer.module
    return _is_just(module, nn.ReLU)


def _is_just(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """True if a module has no hooks and no `forward` other than its class's."""
    changed = "forward" in vars(module) or any(getattr(module, hooks) for hooks in HOOKS)
    return type(module) in kinds and not changed
