"""How readily a model predicts a label."""

from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.models import Net
from speechkit.transforms import transform

AUDIO = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))


def logits(model: sk.Model) -> torch.Tensor:
    """Before the softmax of CTC, `[..., n]`."""
    with torch.no_grad():
        scores = model(AUDIO).scores
    # CTC's log-probabilities are logits but for a constant of each frame
    return scores - scores[..., :1]


def test_exactly_one_logit_moves(net: Net) -> None:
    model = sk.build(net).eval()
    label = model.labels[1]
    made, (record,) = transform(model, [f"bias:by=-0.75,label={label}"])
    moved = logits(made) - logits(model)
    torch.testing.assert_close(moved[..., 1], torch.full_like(moved[..., 1], -0.75))
    others = [i for i in range(moved.shape[-1]) if i != 1]
    torch.testing.assert_close(moved[..., others], torch.zeros_like(moved[..., others]))
    report = record.report
    assert report["label"] == label
    assert report["after"] - report["before"] == pytest.approx(-0.75)


def test_without_a_label_it_is_the_blank(nets: dict[str, Any]) -> None:
    model = sk.build(nets["ctc"]).eval()
    made, _ = transform(model, ["bias:by=2"])
    moved = logits(made) - logits(model)
    torch.testing.assert_close(moved[..., -1], torch.full_like(moved[..., -1], 2.0))
    torch.testing.assert_close(moved[..., :-1], torch.zeros_like(moved[..., :-1]))


def test_what_cannot_be_moved_is_one_line(nets: dict[str, Any]) -> None:
    clip, ctc = sk.build(nets["clip"]), sk.build(nets["ctc"])
    with pytest.raises(ConfigError, match="has no blank; give label='low', 'high'"):
        transform(clip, ["bias:by=1"])
    with pytest.raises(ConfigError, match="no label 'mid'; give 'low', 'high'"):
        transform(clip, ["bias:by=1,label=mid"])
    with pytest.raises(ConfigError, match="by=inf; give a finite number"):
        transform(ctc, ["bias:by=Infinity"])
    clip.head.linear.bias = None
    with pytest.raises(ConfigError, match="head clip has 0 biases of labels"):
        transform(clip, ["bias:by=1,label=low"])
