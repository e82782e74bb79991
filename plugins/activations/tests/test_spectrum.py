"""What the activations of a model make of a tone."""

from pathlib import Path

import pytest
import torch
from speechkit_activations.spectrum import harmonics
from torch import nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.probes import Examples, probe

CLIPS = Path(sk.__file__).parent / "bundled" / "clips" / "clips.jsonl"


def found(activation: str, spec: str = "activation_spectrum") -> dict[str, torch.Tensor]:
    net = sk.MatchboxNet(size="1x1x8", labels=("a", "b"), activation=activation)
    model = sk.build(net, 1).eval()
    return probe(model, [spec], Examples(model, CLIPS))[spec]


def test_paper_046_relu_has_its_table() -> None:
    seen = found("relu")
    assert seen["harmonics"].shape[1] == 7
    expected = torch.tensor([1 / torch.pi, 0.5, 2 / (3 * torch.pi), 0, 2 / (15 * torch.pi)])
    for row in seen["harmonics"]:
        torch.testing.assert_close(row[:5], expected.double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen["even"], torch.ones_like(seen["even"]), atol=1e-6, rtol=0)
    assert torch.equal(seen["constant"], seen["harmonics"][:, 0])


def test_the_tone_is_as_strong_as_the_inputs() -> None:
    seen = found("silu")
    for rms, row in zip(seen["rms"], seen["harmonics"], strict=True):
        amplitude = float(2**0.5 * rms)
        expected = harmonics(nn.SiLU(), amplitude, count=6) / amplitude
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
    assert seen["harmonics"][0, 0] != seen["harmonics"][1, 0]


def test_a_count_is_limited() -> None:
    with pytest.raises(ComponentError, match="give 2 to 100"):
        found("relu", "activation_spectrum:count=1")
