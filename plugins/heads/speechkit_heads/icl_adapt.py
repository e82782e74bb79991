"""Labels from a few clips: steps of gradient descent on the last layer, computed from the clips."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit import ops
from speechkit.component import Spec
from speechkit.config import check_range
from speechkit.errors import ComponentError
from speechkit.models import Model, build
from speechkit.nn import Chunk, Pointwise, PooledHead
from speechkit.plugins import registry
from speechkit.probes import Examples
from speechkit.transforms import Transform, required
from speechkit_heads.embeddings import Embeddings, labelled

Name = Spec | str


class AdaptedLinear(Pointwise):
    """A linear layer after `steps` steps of gradient descent on clips that it keeps.

    y = W x + b − (lr / n) Σ_s Σ_i (softmax(z_i^s) − t_i) (⟨h_i, x⟩ + 1), where z_i^s are the logits
    of clip i before step s. That is the layer which gradient descent with the mean cross-entropy of
    the n clips gives, but W and b stay as they are, so that a clip can be taken away again. The
    buffers are `context` h `[clips, C]` and `targets` t `[clips, C']`, one-hot; rows of zeros are
    free. Without clips y = W x + b.

    Shape: x `[B, C, T]`, y `[B, C', T]`. Source: arXiv:2411.16549.
    """

    context: Tensor
    targets: Tensor

    def __init__(self, c_in: int, c_out: int, lr: float, steps: int, clips: int) -> None:
        super().__init__(c_in, c_out, bias=True)
        self.lr, self.steps = lr, steps
        self.register_buffer("context", torch.zeros(clips, c_in))
        self.register_buffer("targets", torch.zeros(clips, c_out))

    def forward(self, c: Chunk) -> Chunk:
        weight, bias, _ = self.matrix()
        return Chunk(ops.linear(c.x.transpose(1, 2), weight, bias).transpose(1, 2), c.valid)

    def matrix(self) -> tuple[Tensor, Tensor | None, int]:
        """The weight `[C', C]` and the bias after the steps, and the stride."""
        assert self.bias is not None
        used = self.targets.sum(1, keepdim=True)
        rate = self.lr / used.sum().clamp(min=1)
        logits = self.context @ self.weight.T + self.bias
        products = self.context @ self.context.T + 1
        moved = torch.zeros_like(self.targets)
        for _ in range(self.steps):
            errors = (logits + products @ moved).softmax(1) * used - self.targets
            moved = moved - rate * errors
        return self.weight + moved.T @ self.context, self.bias + moved.sum(0), 1

    def scale_outputs(self, scale: Tensor) -> None:
        """Raises ComponentError: other logits would be adapted in another way."""
        raise ComponentError("icl_adapt: its outputs cannot be scaled; fold a clip head instead")


def head(
    channels: int,
    labels: int,
    pool: Name = "average",
    lr: float = 0.03,
    steps: int = 3,
    clips: int = 64,
) -> PooledHead:
    """Logits of one utterance: a pool over time, then an `AdaptedLinear` for at most `clips` clips.

    It trains as head `clip` does; the transform `icl_adapt` gives it the clips. ComponentError for
    a rate that is not positive, and for fewer than one step or clip.
    """
    _check(lr, steps)
    check_range("clips", clips, 1, 1 << 16)
    pool_layer = registry().build("pool", pool, channels)
    return PooledHead(pool_layer, AdaptedLinear(channels, labels, lr, steps, clips))


def transform(lr: float = 0.03, steps: int = 3) -> Transform:
    """Adds the labels of the recordings to a model with head `clip`; its head is then `icl_adapt`.

    No weight changes; those of a new label are 0. The head keeps an embedding of each recording.
    ComponentError for a rate that is not positive, and for fewer than one step; ConfigError for a
    model with another head, and ManifestError for recordings without labels.
    """
    _check(lr, steps)

    def apply(model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        embed = Embeddings(model, "icl_adapt")
        clips = [(name, embed.clip(x)) for name, x in labelled(required(examples, "icl_adapt"))]
        names = [name for name, _ in clips]
        new = sorted(set(names) - set(model.labels))
        labels = (*model.labels, *new)
        params = {**Spec.parse(model.config.head).params, "lr": lr, "steps": steps}
        spec = Spec("icl_adapt", {**params, "clips": len(clips)})
        made = build(replace(model.config, labels=labels, head=spec))
        places = torch.tensor([labels.index(name) for name in names])
        weights = model.state_dict()
        for name in ("head.linear.weight", "head.linear.bias"):
            free = weights[name].new_zeros(len(new), *weights[name].shape[1:])
            weights[name] = torch.cat([weights[name], free])
        weights["head.linear.context"] = torch.stack([embedded for _, embedded in clips])
        weights["head.linear.targets"] = F.one_hot(places, len(labels)).float()
        made.load_state_dict(weights)
        made.to(embed.weight.device)
        return made, {"clips": dict(Counter(names)), "lr": lr, "steps": steps}

    return apply


def _check(lr: float, steps: int) -> None:
    if not (math.isfinite(lr) and lr > 0):
        raise ComponentError(f"icl_adapt: lr={lr}; give a positive number")
    check_range("steps", steps, 1, 1000)
