"""Replaces layers of a net by fused ones that a single op computes, for inference.

    depthwise, 1×1, norm, activation          →  SeparableConv
    1×1, norm, activation                     →  SeparableConv without taps
    a body that ends in one of these, shortcut →  SeparableResidual

A 1×1 layer has a method `matrix()`. A layer that may be fused with a 1×1 layer after it has
`depthwise`, and a merge rule that is a sum has `adds`. A module with `fuse()` is replaced by the
result: an `Affine`, such as that of a norm, is folded into the layer before, and a `Serial` or a
layer above is fused further. All other layers stay unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.nn.frame import Affine, Bias
from speechkit.nn.fused_serial import FusedSerial
from speechkit.nn.separable import SeparableConv, SeparableResidual
from speechkit.nn.stream import FrameWise, Residual, Serial, StreamLayer, as_layer
from speechkit.ops.activation import NONE, Activation, activation_of
from speechkit.ops.describes import describes
from speechkit.ops.separable_conv import Precision, Shape, implementation, pack

ROWS = Serial, FusedSerial
"""The types that are taken apart; another subclass of Serial may compute something else."""


def fuse(
    layer: StreamLayer,
    precision: Precision = "float32",
    impl: str | None = None,
    *,
    factored: bool = False,
) -> StreamLayer:
    """A layer with fewer parts that is equal in evaluation; `layer` is not changed.

    Its 1×1 products are in `precision`, and its ops run `impl` (the fastest if None). If
    `factored`, each op also keeps its matrix without the norm that is folded into it, as a plan
    stores it. Raises ConfigError if `impl` is not possible.
    """
    return _Fuser(precision, impl, factored).fuse(layer)


@torch.no_grad()
def fold_norms(row: Serial) -> None:
    """Folds the scale of each norm into the weights before it, in place, and keeps its bias."""
    for (_, before), (name, norm) in pairwise(list(row.named_children())):
        if not describes(before, "scale_outputs") or not describes(norm, "fuse"):
            continue
        affine = norm.fuse()  # type: ignore[operator]
        if isinstance(affine, Affine):
            before.scale_outputs(affine.scale)  # type: ignore[operator]
            bias = Bias(len(affine.shift)).requires_grad_(False)
            bias.bias.copy_(affine.shift)
            setattr(row, name, FrameWise(bias))


@dataclass
class _Open:
    """A sub-block to which a norm or an activation may still be added; scale and bias in float64.

    Its matrix is `weight`, with the rows multiplied by `scale`.
    """

    mixer: Any
    stride: int
    weight: Tensor
    scale: Tensor
    bias: Tensor
    activation: Activation = NONE
    head: Sequence["_Part"] = field(default_factory=list)
    shortcut: Sequence["_Part"] = field(default_factory=list)

    def can_add(self) -> bool:
        """True if a shortcut with the same frames can be added, which must be the first."""
        return self.activation is NONE and not self.shortcut and self.stride == 1

    def take(self, part: StreamLayer, impl: str | None) -> bool:
        """True if `impl` can run it with a norm or an activation."""
        if self.activation is not NONE:
            return False
        module = part.module if type(part) is FrameWise else part
        if isinstance(module, Affine) and not self.shortcut:
            scale, shift = module.scale.double(), module.shift.double()
            self.scale, self.bias = self.scale * scale, self.bias * scale + shift
            return True
        found = activation_of(module)
        if found is None or found.is_gate or not self.runs(found, impl):
            return False
        self.activation = found
        return True

    def runs(self, activation: Activation, impl: str | None) -> bool:
        """True if `impl` has an op with this activation; Triton kernels take no vectors."""
        shape = Shape(self.weight.shape[1], self.weight.shape[0])
        choice = implementation(shape, self.weight, impl)
        return activation.fits and not (activation.vectors and choice.impl == "triton")


_Part = StreamLayer | _Open


@dataclass(frozen=True)
class _Fuser:
    precision: Precision
    impl: str | None
    factored: bool

    def fuse(self, layer: StreamLayer) -> StreamLayer:
        return self.close(self.parts(layer))

    def parts(self, layer: StreamLayer) -> list[_Part]:
        """The layers of a nested Serial in order, fused where possible."""
        done: list[_Part] = []
        for part in _flat(layer):
            last = done[-1] if done else None
            if isinstance(last, _Open) and last.take(part, self.impl):
                continue
            if opened := _opened(part, last):
                done = done[:-1] if opened.mixer else done
                done.append(opened)
            elif type(part) is Residual:
                done.append(self.residual(part))
            elif type(part) in ROWS:
                done.append(self.fuse(part))
            else:
                done.append(part)
        return done

    def residual(self, block: Residual) -> _Part:
        body, shortcut = self.parts(block.body), self.parts(block.shortcut)
        last = body[-1] if body else None
        adds = describes(block.merge, "adds") and not block.body_wait.delay
        if adds and shortcut and isinstance(last, _Open) and last.can_add():
            last.head, last.shortcut = body[:-1], shortcut
            return last
        return Residual(self.close(body), self.close(shortcut), block.merge)

    def close(self, parts: Sequence[_Part]) -> StreamLayer:
        return Serial(*(self.packed(p) if isinstance(p, _Open) else p for p in parts))

    def packed(self, part: _Open) -> StreamLayer:
        mixer = part.mixer
        shape = Shape(
            c_in=part.weight.shape[1],
            c_out=part.weight.shape[0],
            taps=mixer.kernel if mixer else 0,
            stride=part.stride,
            dilation=mixer.dilation if mixer else 1,
            padding=(mixer.left, mixer.right) if mixer else (0, 0),
            activation=part.activation,
            precision=self.precision,
        )
        depthwise = mixer.weight.detach() if mixer else None
        dtype = part.weight.dtype
        scaled = (part.weight.double() * part.scale[:, None]).to(dtype)
        packed = pack(shape, depthwise, scaled, part.bias.to(dtype), self.impl)
        factors = (part.weight, part.scale.to(dtype)) if self.factored else None
        last = SeparableConv(packed, factors)
        if not part.shortcut:
            return last
        return SeparableResidual(self.close(part.head), last, self.close(part.shortcut))


def _flat(layer: StreamLayer) -> list[StreamLayer]:
    if isinstance(layer, Serial) and type(layer) in ROWS:
        return [
            part
            for index, child in enumerate(layer)
            # a layer before a Serial with a stride waits for all of it, so that one is kept
            for part in ([child] if index and _strides(child) else _flat(child))
        ]
    simpler: nn.Module = layer.fuse() if describes(layer, "fuse") else layer  # type: ignore[operator]
    if simpler is layer:
        return [layer]
    # an identity in evaluation is removed
    return [] if type(simpler) is StreamLayer else _flat(as_layer(simpler))


def _strides(layer: StreamLayer) -> bool:
    return type(layer) in ROWS and layer.stride > 1


def _opened(part: StreamLayer, last: _Part | None) -> _Open | None:
    """A new sub-block of a 1×1 layer and the depthwise one before it, if there is one."""
    found = part.matrix() if describes(part, "matrix") else None  # type: ignore[operator]
    if found is None:
        return None
    weight, bias, stride = found
    joins = isinstance(last, StreamLayer) and describes(last, "depthwise") and stride == 1
    mixer: Any = last if joins else None
    weight = weight.detach()
    zeros = weight.new_zeros(len(weight), dtype=torch.float64)
    return _Open(
        mixer=mixer,
        stride=mixer.stride if mixer else stride,
        weight=weight,
        scale=zeros + 1,
        bias=zeros if bias is None else bias.detach().double(),
    )
