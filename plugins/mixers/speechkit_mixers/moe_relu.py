"""A mixture of experts with a ReLU as router, and a loss that controls its sparsity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, Output
from speechkit.nn import Chunk, Pointwise, StreamLayer
from speechkit.nn.collectives import gather
from speechkit.nn.taps import Taps
from speechkit.train import Method
from speechkit_mixers.norms import inverse_rms

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


EPSILON = 1e-5
SMALLEST, LARGEST = 1e-10, 10.0
"""The bounds of the weight of the loss."""


class MoEReLU(StreamLayer):
    """y = Σ_e r_e W_e (silu(U_e n) · V_e n) at every frame, r = ReLU(R n + b).

    n = x / √(mean_c x² + 1e-5), as in the paper's net: y is cubic in n, and would almost vanish for
    small x. Each of the `experts` is a SwiGLU feed-forward layer with `hidden` units, by default as
    many as output channels. All of them are computed, those with r_e = 0 too. Unit h of expert e is
    row h · experts + e of `value` and `gate`. A frame in which all r_e are 0 gives 0. Shape:
    `[B, C, T]` → `[B, C', T]`. Wang et al., arXiv:2412.14711; the bias b is ours: without it half
    of the r_e are above 0 for a symmetric input, whatever R is.
    """

    def __init__(self, c_in: int, c_out: int, experts: int = 8, hidden: int | None = None) -> None:
        super().__init__()
        hidden = c_out if hidden is None else hidden
        if experts < 1 or hidden < 1:
            raise ComponentError(
                f"channel moe_relu: experts={experts}, hidden={hidden}; give 1 or more of each"
            )
        self.experts, self.hidden = experts, hidden
        self.router = Pointwise(c_in, experts, bias=True)
        assert self.router.bias is not None
        nn.init.zeros_(self.router.bias)
        self.gate = Pointwise(c_in, experts * hidden)
        self.value = Pointwise(c_in, experts * hidden)
        self.out = Pointwise(experts * hidden, c_out)

    def channels_out(self, c_in: int) -> int:
        return self.out.channels_out(c_in)

    def forward(self, c: Chunk) -> Chunk:
        x = c.x.transpose(1, 2)
        c = Chunk((x * inverse_rms(x, EPSILON)).transpose(1, 2), c.valid)
        r = F.relu(self.router(c).x).repeat(1, self.hidden, 1)
        units = F.silu(self.gate(c).x) * self.value(c).x * r
        y: Chunk = self.out(Chunk(units, c.valid))
        return y

    def lower(self, program: Lowering, x: Value) -> Value:
        x = program.normalize(x, EPSILON, centred=False)
        opened = program.expression("relu(x)", {}, program.add(self.router, x))
        r = program.repeat(opened, self.hidden)
        value, gate = program.add(self.value, x), program.add(self.gate, x)
        units = program.expression(
            "a * b", {}, program.expression("silu(a) * b", {}, gate, value), r
        )
        return program.add(self.out, units)

    def extra_repr(self) -> str:
        return f"experts={self.experts}, hidden={self.hidden}"


class ReMoE(Method, nn.Module):
    """Adds λ · mean_l Σ_e E / (k T) · #{t: r_e > 0} · mean_t r_e to the loss, and adapts λ.

    The mean is over the layers `moe_relu`, T are the valid frames of a batch, and the count has no
    gradient. After a step in which a share S of all r_e is 0, λ is multiplied by `factor` if S < 1
    − k / E, else divided by it, so that about `k` experts have r_e > 0 in a frame. λ begins at
    `start` and stays within 1e-10 and 10; these bounds are ours. With `start=0` it stays 0. Wang et
    al., arXiv:2412.14711.
    """

    weight: Tensor
    excess: Tensor

    def __init__(self, k: int = 1, start: float = 1e-8, factor: float = 1.2) -> None:
        super().__init__()
        if k < 1 or not 0 <= start <= LARGEST or not factor >= 1:
            raise ComponentError(
                f"method remoe: k={k}, start={start}, factor={factor}; give k from 1 up, start "
                f"from 0 to {LARGEST} and factor from 1 up"
            )
        self.k, self.factor = k, factor
        self.register_buffer("weight", torch.tensor(start, dtype=torch.float64))
        self.register_buffer("excess", torch.tensor(0.0, dtype=torch.float64))

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        layers = {name: m for name, m in model.named_modules() if isinstance(m, MoEReLU)}
        if not layers or any(layer.experts < self.k for layer in layers.values()):
            raise TrainingError(
                f"method remoe: k={self.k}, and the experts of the layers moe_relu are "
                f"{[layer.experts for layer in layers.values()]}; set channel=moe_relu with "
                "at least k experts"
            )
        routers = {name: layer.router for name, layer in layers.items()}
        self.taps = Taps(routers, training_only=True)

    def extra_loss(self, batch: Batch, output: Output) -> Tensor | None:
        """λ times the mean of the layers' losses, for each utterance."""
        losses = []
        for call in self.taps.take():
            r = F.relu(call.output.x.transpose(1, 2)[call.output.valid])
            frames, experts = r.shape
            opened = (r > 0).sum(0)
            losses.append((experts / (self.k * frames) * opened * r.mean(0)).sum())
            zeros = 1 - opened.sum().double() / r.numel()
            self.excess += zeros - (1 - self.k / experts)
        if not self.weight:
            return None
        return (self.weight * torch.stack(losses).mean()).expand(len(output.scores))

    @torch.no_grad()
    def after_step(self, model: Model, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Adapts λ to the r_e of the step's batches, in all processes."""
        excess = self.excess
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            excess = gather(excess).sum()
        if self.weight:
            factor = self.factor if excess < 0 else 1 / self.factor
            self.weight.mul_(factor).clamp_(SMALLEST, LARGEST)
        self.excess.zero_()
