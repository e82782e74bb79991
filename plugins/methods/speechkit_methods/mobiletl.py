"""Fine-tuning that stores little for the backward pass."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speechkit.data import UtteranceDataset
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model
from speechkit.nn import BatchNorm, FrameWise, Residual, StreamLayer
from speechkit.ops.activation import activation_of
from speechkit.train import Method

SLOPES = {-4.0: 0.0, -1.0: 0.0, 4.0: 1.0}
"""Where an activation is compared with ReLU, and ReLU's slopes there."""
NEAR = 0.2
"""By how much its slopes may differ from these."""


@dataclass
class MobileTL(Method):
    """Trains the last `blocks` blocks of the encoder and the head, and nothing before them.

    In these blocks the last norm of a body is trained as usual. The other batch norms use their
    running statistics, y = s · x + bias with s = weight / sqrt(σ² + eps), and only their bias is
    trained, so their input is not stored. The gradient of an activation that is nearly ReLU, such
    as hardswish or SiLU, is that of ReLU, g · 1[x > 0]; it stores a bit of each value. ReLU itself
    and all other activations are as they are. What is before these blocks has no graph, and its
    norms use their running statistics. Scores in evaluation do not change.
    Source: Chiang et al., arXiv:2212.03246.
    """

    blocks: int = 3
    frozen: list[nn.Module] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ComponentError(f"method mobiletl: blocks={self.blocks}; give 1 or more")

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Freezes weights, and replaces the activations of the last blocks."""
        encoder = list(model.encoder.children())
        if self.blocks > len(encoder):
            raise TrainingError(
                f"method mobiletl: blocks={self.blocks}, and the net has {len(encoder)} blocks "
                "after its stem; give at most as many"
            )
        tuned = encoder[-self.blocks :]
        norms = [norm for block in tuned for norm in _norms(block)]
        if not norms:
            raise TrainingError(
                "method mobiletl freezes the statistics of batch norms, and the last blocks have "
                f"none with norm={model.config.norm}; give a net with norm=batch"
            )
        inner = [norm for norm in norms if norm not in map(_last_norm, tuned)]
        model.requires_grad_(False)
        for layer in (*tuned, model.head):
            layer.requires_grad_(True)
        for norm in inner:
            norm.weight.requires_grad_(False)
        for layer in (layer for block in tuned for layer in block.modules()):
            if isinstance(layer, FrameWise) and _is_nearly_relu(layer.module):
                layer.module = ReLUGradient(layer.module)
        self.frozen = [model.frontend, model.stem, *encoder[: -self.blocks], *inner]

    def gradients(self, again: Callable[[], float], model: Model, step: int) -> float:
        """Computes the gradients with the frozen layers in evaluation."""
        for layer in self.frozen:
            layer.eval()
        return again()


class ReLUGradient(nn.Module):
    """y = f(x); its gradient in training is that of ReLU, and stores a bit of each value.

    Shape: `[B, C, T]` → the same.
    """

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            y: Tensor = _Sign.apply(x, self.function)  # type: ignore[no-untyped-call]
        else:
            y = self.function(x)
        return y


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: nn.Module) -> Tensor:
        # frames `[B, T, C]` are contiguous in memory
        frames = x.transpose(1, 2)
        ctx.save_for_backward(_pack(frames > 0))
        ctx.shape = frames.shape
        y: Tensor = function(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (packed,) = ctx.saved_tensors
        return gradient * _unpack(packed, ctx.shape).transpose(1, 2), None


def _pack(bits: Tensor) -> Tensor:
    """Booleans of any shape as uint8 `[⌈n / 8⌉]`, eight in each byte."""
    flat = nn.functional.pad(bits.reshape(-1).byte(), (0, -bits.numel() % 8)).view(-1, 8)
    return (flat << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(1).byte()


def _unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """The booleans that `_pack` packed."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[:, None] >> places & 1).view(-1)[: shape.numel()].view(shape).bool()


def saved_bytes(compute: Callable[[], Any], model: nn.Module) -> int:
    """The bytes that autograd stores for a call of `compute`, without the model's own tensors.

    What several layers store of one tensor counts once.
    """
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        # the graph, and with it what it stores, lives until this returns
        result = compute()
    bytes_of = {place: x.untyped_storage().nbytes() for place, x in kept.items()}
    del result
    return sum(size for place, size in bytes_of.items() if place not in own)


def _norms(block: nn.Module) -> list[BatchNorm]:
    return [layer for layer in block.modules() if isinstance(layer, BatchNorm)]


def _last_norm(block: nn.Module) -> BatchNorm | None:
    """The last norm of a block's body: not that of its shortcut."""
    body = next((m.body for m in block.modules() if isinstance(m, Residual)), block)
    return next(reversed(_norms(body)), None)


def _is_nearly_relu(module: nn.Module) -> bool:
    """True for an elementwise function without weights whose slopes are about those of ReLU."""
    function = None if isinstance(module, StreamLayer) else activation_of(module)
    if function is None or function.is_gate or function.code.is_relu or any(module.parameters()):
        return False
    x = torch.tensor([list(SLOPES)], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(function(x).sum(), x)
    return bool((found[0] - found.new_tensor(list(SLOPES.values()))).abs().max() < NEAR)
