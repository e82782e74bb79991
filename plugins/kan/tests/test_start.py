"""A run that starts from a model with a KAN head."""

from pathlib import Path

import pytest
import torch

import speechkit as sk
from speechkit.models import build
from speechkit.train.starting_weights import start_from


def test_a_head_whose_weights_have_no_order_of_labels_is_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = (sk.Block(channels=8, kernel=3),)
    first = build(sk.QuartzNet(labels=("a", "b"), blocks=blocks, head="kan_ctc"), 1)
    sk.save(first, tmp_path / "first")
    again = build(sk.QuartzNet(labels=("b", "a"), blocks=blocks, head="kan_ctc"), 2)
    before = {name: x.clone() for name, x in again.head.state_dict().items()}
    start_from(again, tmp_path / "first")
    assert "in another order than this run's 2: the head is new" in caplog.text
    for name, x in again.head.state_dict().items():
        torch.testing.assert_close(x, before[name], atol=0, rtol=0)
    body = first.encoder.state_dict()
    assert all(torch.equal(x, body[name]) for name, x in again.encoder.state_dict().items())
