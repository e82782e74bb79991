"""The on/off codes of a net's units."""

from typing import Any

import torch

import speechkit as sk
from speechkit.nn import Chunk
from speechkit.probes.codes import activations, codes


def test_a_unit_is_on_where_its_input_is_above_0(nets: dict[str, Any]) -> None:
    model = sk.build(nets["clip"], 1).eval()
    features = Chunk.of(torch.randn(2, 16, 20), torch.tensor([20, 11]))
    found = codes(model, features)
    assert list(found) == list(activations(model))
    assert found["stem.after.activation"].lengths.tolist() == [10, 6], "the stem has a stride of 2"
    with torch.no_grad():
        on = model.stem(features).x > 0
    assert torch.equal(found["stem.after.activation"].x, on), "ReLU is above 0 where its input is"
