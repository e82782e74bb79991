"""What computes the scores of a batch of sessions, block by block: torch, or one native call."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from speechkit.evaluation import evaluating
from speechkit.models import Model
from speechkit.nn import Chunk, StreamLayer
from speechkit.streaming.native import Call, NativeLayer
from speechkit.streaming.state import rebuilt, tensors_of

MOST_KEPT = 16
"""Calls over more blocks than this are made anew each time: their memory is not small."""


class Scored(NamedTuple):
    """The scores of some blocks, `[size, blocks, T, n]`, and their validity, `[size, blocks, T]`.

    They may be overwritten when the engine computes the next ones.
    """

    scores: Tensor
    valid: Tensor

    def row(self, row: int) -> tuple[Tensor, Tensor]:
        """Those of one session."""
        return self.scores[row], self.valid[row]


class TorchEngine:
    """`size` sessions whose blocks go through a layer's `step`."""

    def __init__(self, model: Model, layer: StreamLayer, size: int, block_samples: int) -> None:
        self.model, self.layer, self.size, self.block_samples = model, layer, size, block_samples
        weight = next(model.parameters())
        self._device = weight.device
        # filled in place, so that a session needs the same memory however long it runs
        self._pending = torch.zeros(size, 1, block_samples, dtype=weight.dtype)
        self.filled = 0
        self._state = layer.init_state(size, 1, weight.dtype, weight.device)

    def feed(self, samples: np.ndarray) -> Scored | None:
        """The blocks that the next samples `[size, N]` complete, if any."""
        x = torch.from_numpy(samples).to(self._pending.dtype)
        blocks, at = [], 0
        while at < x.shape[1]:
            take = min(self.block_samples - self.filled, x.shape[1] - at)
            self._pending[:, 0, self.filled : self.filled + take] = x[:, at : at + take]
            self.filled += take
            at += take
            if self.filled == self.block_samples:
                blocks.append(self._run(self.block_samples))
                self.filled = 0
        return _joined(blocks)

    def flush(self) -> Scored | None:
        """The blocks that wait for sound to come, as after its end."""
        waiting = self.layer.delay * self.layer.stride // self.layer.rate
        self._pending[:, :, self.filled :] = 0
        blocks = []
        for _ in range(-(-(self.filled + waiting) // self.block_samples)):
            blocks.append(self._run(self.filled))
            self.filled = 0
            self._pending.zero_()
        return _joined(blocks)

    @torch.inference_mode()
    def reset(self, row: int) -> None:
        """Starts a row anew."""
        chosen = torch.arange(self.size, device=self._device) == row
        fresh = self.layer.init_state(self.size, 1, self._pending.dtype, self._device)
        mixed = [
            torch.where(chosen.view(-1, *[1] * (old.ndim - 1)), new, old)
            for old, new in zip(tensors_of(self._state), tensors_of(fresh), strict=True)
        ]
        self._state = rebuilt(self._state, iter(mixed))

    def tensors(self) -> dict[str, Tensor]:
        """All that the next block depends on, `filled` apart."""
        layers = {f"layers.{i}": x for i, x in enumerate(tensors_of(self._state))}
        return {**layers, "pending": self._pending}

    def restore(self, tensors: dict[str, Tensor], filled: int) -> None:
        """Goes on from what `tensors` gave."""
        self._pending = tensors.pop("pending")
        self._state = rebuilt(self._state, iter(tensors.values()))
        self.filled = filled

    @torch.inference_mode()
    def _run(self, real: int) -> Scored:
        """One step over the pending block, whose first `real` samples are valid."""
        x = self._pending.to(self._device)
        valid = torch.arange(self.block_samples, device=self._device) < real
        with evaluating(self.model):
            out, self._state = self.layer.step(Chunk(x, valid.expand(self.size, -1)), self._state)
        return Scored(out.x.transpose(1, 2).cpu()[:, None], out.valid.cpu()[:, None])


def _joined(blocks: list[Scored]) -> Scored | None:
    if not blocks:
        return None
    return Scored(*(torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True)))


class NativeEngine:
    """`size` sessions whose blocks are computed by one native call for each feed."""

    def __init__(self, layer: NativeLayer, size: int) -> None:
        self.layer, self.size = layer, size
        self._pending = np.zeros((size, layer.block_samples), dtype=np.float32)
        self.filled = 0
        (self._state,) = layer.init_state(size, 1)
        self._scratch = layer.scratch(size)
        self._calls: dict[int, Call] = {}

    def feed(self, samples: np.ndarray) -> Scored | None:
        """The blocks that the next samples `[size, N]` complete, if any."""
        block = self.layer.block_samples
        if self.filled:
            samples = np.concatenate([self._pending[:, : self.filled], samples], axis=1)
        samples = np.ascontiguousarray(samples)
        count = samples.shape[1] // block
        self.filled = samples.shape[1] - count * block
        scored = self._run(samples, count, count * block) if count else None
        self._pending[:, : self.filled] = samples[:, count * block :]
        # so that the state tells nothing of how the sound was cut
        self._pending[:, self.filled :] = 0
        return scored

    def flush(self) -> Scored | None:
        """The blocks that wait for sound to come, as after its end."""
        waiting = self.layer.delay * self.layer.stride // self.layer.rate
        count = -(-(self.filled + waiting) // self.layer.block_samples)
        if not count:
            return None
        samples = np.zeros((self.size, count * self.layer.block_samples), dtype=np.float32)
        samples[:, : self.filled] = self._pending[:, : self.filled]
        real, self.filled = self.filled, 0
        return self._run(samples, count, real)

    def reset(self, row: int) -> None:
        """Starts a row anew."""
        self._state[row] = 0

    def tensors(self) -> dict[str, Tensor]:
        """All that the next block depends on, `filled` apart."""
        return {"layers.0": self._state, "pending": torch.from_numpy(self._pending)}

    def restore(self, tensors: dict[str, Tensor], filled: int) -> None:
        """Goes on from what `tensors` gave."""
        self._state[:] = tensors["layers.0"]
        self._pending[:] = tensors["pending"].numpy()
        self.filled = filled

    def _run(self, samples: np.ndarray, blocks: int, real: int) -> Scored:
        """Steps over the first blocks of `[size, N]`, whose first `real` samples are valid."""
        call = self._calls.get(blocks)
        if call is None:
            call = Call(self.layer, self.size, blocks, self._state, self._scratch)
            if blocks <= MOST_KEPT:
                self._calls[blocks] = call
        call(samples, real)
        return Scored(call.scores, call.valid)
