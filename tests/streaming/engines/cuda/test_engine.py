"""The engine of a card on the CPU: a session's state goes to another row, and on from there."""

import numpy as np
import torch

import speechkit as sk
from speechkit.models import Net
from speechkit.streaming.engines.cuda.engine import CudaEngine
from speechkit.streaming.waiting import Waiting


def test_a_state_goes_on_in_another_row(nets: dict[str, Net]) -> None:
    torch.manual_seed(0)
    model = sk.build(nets["frame"]).eval()
    layer, block = model.stream_layer(), 320
    engine = CudaEngine(model, layer, Waiting(4, block, 16))
    x = np.random.default_rng(0).uniform(-1, 1, 10 * block).astype(np.float32)

    def step(row: int, samples: np.ndarray) -> np.ndarray:
        engine.waiting.put(row, samples)
        rows = np.array([row])
        scored = engine.step(rows, 1)
        engine.waiting.pass_on(rows, 1)
        return scored.scores[0, 0].copy()

    for block_of in np.split(x[: 5 * block], 5):
        step(1, block_of)
    state = {name: x.copy() for name, x in engine.state(1).items()}
    engine.restore(3, state)
    for block_of in np.split(x[5 * block :], 5):
        expected = step(1, block_of)
        np.testing.assert_array_equal(step(3, block_of), expected)
    engine.reset(np.array([1]))
    assert not all(map(np.array_equal, engine.state(1).values(), state.values()))
