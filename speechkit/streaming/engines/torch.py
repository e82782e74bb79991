"""The engine in torch: the step of each layer, for any net on any device."""

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.models import Model, evaluating
from speechkit.nn import Chunk, State, StreamLayer
from speechkit.nn.states import arrays_of, copied, in_numpy, rebuilt, tensors_of
from speechkit.streaming.engines.engine import Scores
from speechkit.streaming.waiting import Rows, Waiting

MOST_BLOCKS = 16


class TorchEngine:
    """Computes blocks of the sessions in `waiting` by a layer's `step`; see `Engine`."""

    most_in_progress = 1

    def __init__(self, model: Model, layer: StreamLayer, waiting: Waiting, reason: str) -> None:
        self.model, self.net, self.waiting = model, layer, waiting
        self.backend = f"torch: {reason}"
        self.stride, self.rate, self.delay = layer.stride, layer.rate, layer.delay
        weight = next(model.parameters())
        self._dtype, self._device = weight.dtype, weight.device
        self._state = self._fresh(len(waiting.given))
        # whether only this engine holds the memory of the state, so that it may be written
        self._own = True
        self.bytes_each = sum(x[0].nbytes for x in tensors_of(self._state))

    def most(self, blocks: int) -> int:
        return min(blocks, MOST_BLOCKS)

    def make_ready(self, sessions: int) -> None:
        pass

    @torch.inference_mode()
    def step(self, rows: Rows, blocks: int) -> Scores:
        samples, real = self.waiting.take(rows, blocks)
        x = torch.from_numpy(samples[:, None]).to(self._device, self._dtype)
        block = self.waiting.block_samples
        places = torch.arange(blocks * block, device=x.device)
        valid = places < torch.from_numpy(real).to(x.device)[:, None]
        all_rows, parts = len(rows) == len(self.waiting.given), []
        chosen = torch.from_numpy(rows).to(x.device)
        state = self._state
        if not all_rows:
            state = rebuilt(state, (old[chosen] for old in tensors_of(state)))
        with evaluating(self.model):
            for c in zip(x.split(block, 2), valid.split(block, 1), strict=True):
                out, state = self.net.step(Chunk(*c), state)
                parts.append((out.x.transpose(1, 2), out.valid))
        if all_rows:
            self._state, self._own = state, False
        else:
            self._write(chosen, tensors_of(state))
        scores, marks = (torch.stack(part, 1) for part in zip(*parts, strict=True))
        return Scores(in_numpy(scores), in_numpy(marks))

    @torch.inference_mode()
    def reset(self, rows: Rows) -> None:
        self._write(torch.from_numpy(rows), tensors_of(self._fresh(len(rows))))

    def state(self, row: int) -> dict[str, NDArray[Any]]:
        return arrays_of(rebuilt(self._state, (x[row : row + 1] for x in tensors_of(self._state))))

    @torch.inference_mode()
    def restore(self, row: int, state: dict[str, NDArray[Any]]) -> None:
        new = (torch.from_numpy(array) for array in state.values())
        self._write(torch.tensor([row]), new)

    def _fresh(self, sessions: int) -> State:
        return copied(self.net.init_state(sessions, 1, self._dtype, self._device))

    def _write(self, rows: Tensor, new: Iterator[Tensor]) -> None:
        """Sets the states of some rows."""
        if not self._own:
            self._state, self._own = copied(self._state), True
        for old, x in zip(tensors_of(self._state), new, strict=True):
            old.index_copy_(0, rows.to(old.device), x.to(old))
