"""Heads: layouts, pools, and any channel layer as the KAN."""

import pytest
import torch
from speechkit_kan.bspline import BSplineKAN
from speechkit_kan.cheby import ChebyKAN
from speechkit_kan.heads import kan_ctc, kan_dense, kan_frame
from torch import nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, FrameWise, Pointwise
from speechkit.testing import assert_close, check_stream

LETTER = {Pointwise: "F", BSplineKAN: "K", FrameWise: "r"}


@pytest.mark.parametrize(
    ("layout", "layers"),
    [("FKF", "FKF"), ("K", "K"), ("KF", "KF"), ("FK", "FK"), ("KK", "KK"), ("FF", "FrF")],
)
def test_paper_070_a_layout_is_a_row_of_layers(layout: str, layers: str) -> None:
    head = kan_frame(8, 3, layout, hidden=5)
    assert "".join(LETTER[type(layer)] for layer in head) == layers
    assert head(Chunk.of(torch.randn(2, 8, 4))).x.shape == (2, 3, 4)
    sizes = [layer.channels_out(0) for layer in head if not isinstance(layer, FrameWise)]
    assert sizes == [5] * (len(layout) - 1) + [3]


def test_paper_070_so_many_parameters() -> None:
    head = kan_frame(8, 3, "FKF", hidden=5)
    spline = 5 * 5 * (5 + 3) + 5 * 5 + 5 * 5
    count = sum(p.numel() for p in head.parameters())
    assert count == 8 * 5 + 5 + spline + 5 * 3 + 3
    # the control with as many parameters
    control = kan_frame(8, 3, "FF", hidden=26)
    assert sum(p.numel() for p in control.parameters()) == pytest.approx(count, rel=0.01)


def test_a_text_head_gives_the_probabilities_of_the_frame_head() -> None:
    torch.manual_seed(0)
    text = kan_ctc(8, 3, hidden=5).double()
    x = torch.randn(2, 8, 30).double()
    c = Chunk.of(x)
    scores = text(c).x
    assert_close("scores", text[0](c).x.log_softmax(1), scores, 1e-12)
    assert scores.shape[1] == 4
    check_stream(text, x, torch.tensor([30, 13]))


def test_a_clip_is_the_layers_of_its_mean() -> None:
    torch.manual_seed(0)
    head = kan_dense(8, 3).double()
    x = torch.randn(2, 6, 8).double().transpose(1, 2)
    lengths = torch.tensor([6, 4])
    clip = head(Chunk.of(x, lengths))
    mean = torch.stack([x[0].mean(1), x[1, :, :4].mean(1)])[:, :, None]
    assert_close("clip", head.linear(Chunk.of(mean)).x, clip.x, 1e-12)
    running = head.running()(Chunk.of(x, lengths))
    assert_close("last frame", clip.x[0, :, 0], running.x[0, :, 5], 1e-12)
    assert_close("last frame", clip.x[1, :, 0], running.x[1, :, 3], 1e-12)


def test_any_channel_layer_is_the_kan() -> None:
    kan = {"name": "cheby", "params": {"degree": 2, "norm": "none"}}
    layer = kan_frame(8, 3, "K", kan=kan)[0]
    assert isinstance(layer, ChebyKAN)
    assert layer.degree == 2
    assert isinstance(kan_frame(8, 3, "FK", kan="relu_kan")[1], nn.Module)


def test_another_layout_is_refused() -> None:
    with pytest.raises(ComponentError, match="layout='FKX': give F"):
        kan_frame(8, 3, "FKX")
