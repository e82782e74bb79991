"""Mixture of depths: frames that skip a feed-forward layer, and the rank of a layer's updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.data import Batch, UtteranceDataset
from speechkit.errors import ComponentError, StreamError, TrainingError
from speechkit.models import Model, Output
from speechkit.nn import BodyMaker, Chunk, Serial, StreamLayer, Taps, fuse, plain_block
from speechkit.probes import Examples
from speechkit.tasks import Task, task_of
from speechkit.train import Method
from speechkit_residuals.parts import chosen

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class Routed(StreamLayer):
    """y = x + p · feed_forward(norm(x)) for frames that the router selects, else y = x.

    p is the second value of softmax(W norm(x)). In training the share `capacity` of each row's
    valid frames with the largest p is selected. In evaluation "topk" does the same, and reads the
    whole utterance; "threshold" selects the frames with p > `threshold`, which are as many once the
    router is trained with `RouterLoss`. In evaluation the other frames are not computed. Shape:
    `[B, C, T]` → the same, W `[2, C]`. Luo et al., arXiv:2410.13859.
    """

    self_initialized = ("router",)

    def __init__(
        self,
        norm: StreamLayer,
        feed_forward: Serial,
        channels: int,
        mode: str,
        threshold: float,
        capacity: float,
    ) -> None:
        super().__init__()
        chosen("block mod", "mode", mode, ("threshold", "topk"))
        if not (0 <= threshold <= 1 and 0 < capacity <= 1):
            raise ComponentError(
                f"block mod: threshold={threshold}, capacity={capacity}; give shares from 0 to 1"
            )
        self.norm, self.feed_forward = norm, feed_forward
        self.mode, self.threshold, self.capacity = mode, threshold, capacity
        self.router = nn.Linear(channels, 2, bias=False)
        nn.init.xavier_uniform_(self.router.weight)
        if mode == "topk":
            self.left = self.right = math.inf

    def forward(self, c: Chunk) -> Chunk:
        normal = self.norm(c)
        p = self.logits(normal).softmax(2)[:, :, 1]
        through = self.through(p, c.valid)
        if self.training or torch.compiler.is_compiling():
            made = self.feed_forward(Chunk(normal.x, through)).x
            added = torch.where(through[:, None], p[:, None] * made, 0)
            return Chunk(c.x + added, c.valid)
        rows = c.x.transpose(1, 2).clone()
        given = normal.x.transpose(1, 2)[through].t()[None]
        made = self.feed_forward(Chunk.of(given)).x[0].t()
        rows[through] += p[through][:, None] * made
        return Chunk(rows.transpose(1, 2), c.valid)

    def step(self, c: Chunk, state: object) -> tuple[Chunk, object]:
        if self.mode == "topk":
            raise StreamError(
                "block mod with mode=topk reads the whole utterance; use mode=threshold to stream"
            )
        return self.forward(c), state

    def lower(self, program: Lowering, x: Value) -> Value:
        """The same in a native program, which computes the feed-forward layer for every frame."""
        if self.mode == "topk":
            program.refuse("no native Routed with mode=topk")
        normal = program.add(fuse(self.norm), x)
        # p = sigmoid of the difference of both logits, in each channel
        skip, select = self.router.weight
        logit = program.matrix(normal, (select - skip).expand(x.channels, -1))
        made = program.add(fuse(self.feed_forward), normal)
        routed = "where(sigmoid(a) > threshold, sigmoid(a) * b, 0)"
        added = program.expression(routed, {"threshold": self.threshold}, logit, made)
        return program.added(x, added)

    def logits(self, normal: Chunk) -> Tensor:
        """The router's logits of skipping a frame and of selecting it, `[B, T, 2]`."""
        found: Tensor = self.router(normal.x.transpose(1, 2))
        return found

    def through(self, p: Tensor, valid: Tensor) -> Tensor:
        """The frames that the router selects, `[B, T]` bool."""
        if self.mode == "threshold" and not self.training:
            return valid & (p > self.threshold)
        count = (self.capacity * valid.sum(1, keepdim=True)).ceil()
        rank = p.masked_fill(~valid, -1.0).argsort(stable=True, dim=1, descending=True).argsort(1)
        return valid & (rank < count)


def mod(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    expand: int = 4,
    mode: str = "threshold",
    threshold: float = 0.5,
    capacity: float = 0.5,
) -> StreamLayer:
    """A plain block, then a feed-forward layer for selected frames only (`Routed`).

    The convolutions over time compute every frame, since they read neighbours. So skipping is
    exact.
    """
    make_body.narrow_only("mod")
    inner = expand * c_out
    feed_forward = Serial(
        widen=make_body.channel(c_out, inner),
        activation=make_body.activation(inner),
        narrow=make_body.channel(inner, c_out),
    )
    routed = Routed(make_body.norm(c_out), feed_forward, c_out, mode, threshold, capacity)
    return Serial(block=plain_block(c_in, c_out, make_body, index, depth), routed=routed)


@dataclass
class RouterLoss(Method):
    """Adds weight · cross entropy between the routers' logits and their decisions to the loss.

    The targets are the frames selected in the batch, the share `capacity` of them. This moves their
    p above 0.5 and that of the others below, so that evaluation selects this share too. With
    `keep_speech`, for nets that detect speech, 1 is added to the p of labelled speech before the
    selection of targets, so that routers learn to keep it. (The paper keeps the question's words,
    in the forward pass too.) arXiv:2410.13859.
    """

    weight: float = 0.01
    keep_speech: bool = False
    task: Task = field(init=False, repr=False)
    routed: dict[str, Routed] = field(default_factory=dict, init=False, repr=False)
    taps: Taps = field(init=False, repr=False)

    def start(self, model: Model, dataset: UtteranceDataset) -> None:
        """Records the inputs of the routers from now on."""
        self.routed = {name: m for name, m in model.named_modules() if isinstance(m, Routed)}
        if not self.routed:
            raise TrainingError("method mod_router needs block=mod")
        self.task = task_of(model)
        if self.keep_speech and (self.task.per_clip or not self.task.detects):
            raise TrainingError(
                "method mod_router: keep_speech=true needs speech labelled in frames; train a "
                "MarbleNet with head=frame, or give keep_speech=false"
            )
        norms = {name: layer.norm for name, layer in self.routed.items()}
        self.taps = Taps(norms, training_only=True)

    def extra_loss(self, batch: Batch, output: Output) -> Tensor:
        """The cross entropy of each utterance, averaged over the routers, `[B]`."""
        terms = []
        keep = self.task.targets(batch, output)[0] == 1 if self.keep_speech else 0
        for call in self.taps.take():
            layer, normal = self.routed[call.name], call.output
            logits = layer.logits(normal)
            through = layer.through(logits.softmax(2)[:, :, 1] + keep, normal.valid)
            real = normal.valid
            terms.append(F.cross_entropy(logits[real], through[real].long()))
        return self.weight * torch.stack(terms).mean().expand(len(output.scores))


def shared_router(blocks: list[StreamLayer]) -> Serial:
    """Blocks in series; all blocks `mod` of one width have the router of the first of them."""
    routers: dict[int, nn.Linear] = {}
    layers = [m for block in blocks for m in block.modules() if isinstance(m, Routed)]
    for layer in layers:
        first = routers.setdefault(layer.router.in_features, layer.router)
        if first is not layer.router:
            # registered in the first layer only, so that its weights are stored once
            del layer.router
            layer.__dict__["router"] = first
    if len(layers) == len(routers):
        raise ComponentError(
            "stack shared_router: no two blocks mod of one width; give more rows with block=mod"
        )
    return Serial(*blocks)


def effective_rank(update: Tensor) -> Tensor:
    """exp of the entropy of a matrix's normalised singular values: n for n equal ones.

    Roy & Vetterli, EUSIPCO 2007.
    """
    values = torch.linalg.svdvals(update.double())
    shares = values / values.sum().clamp(min=1e-300)
    rank: Tensor = torch.special.entr(shares).sum().exp()
    return rank


def arank() -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the effective rank of each block's update, valid frames × channels.

    It returns one number per block. Frames may skip a block with a low rank. The paper uses the
    rank of attention maps; for a causal map it is that of the frames.
    """

    @torch.no_grad()
    def probe(model: Model, examples: Examples) -> dict[str, Tensor]:
        updates: dict[str, Tensor] = {}
        for _, features in examples:
            with Taps(dict(model.encoder.named_children())) as taps:
                model.score(features)
            for name, _, (c,), made in taps.take():
                if c.x.shape == made.x.shape:
                    rows = (made.x - c.x).transpose(1, 2)[made.valid].double()
                    # R of a QR decomposition has the same singular values as all rows so far
                    stacked = torch.cat([updates[name], rows]) if name in updates else rows
                    updates[name] = torch.linalg.qr(stacked, mode="r").R
        return {name: effective_rank(update) for name, update in updates.items()}

    return probe
