"""What norm-free nets need: a slope that learns."""

import pytest
import torch
from speechkit_norms.free import LearnableLeakyReLU

from speechkit.errors import ComponentError
from speechkit.nn import FrameWise, Pointwise, SeparableConv, Serial, fuse
from speechkit.testing import assert_close

X = torch.randn(3, 6, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["layer", "channel"])
def test_paper_006_slope_0_is_relu_and_slope_1_the_identity(mode: str) -> None:
    assert torch.equal(LearnableLeakyReLU(6, 0.0, mode)(X), X.relu())
    assert torch.equal(LearnableLeakyReLU(6, 1.0, mode)(X), X)


def test_paper_006_the_gradient_of_the_slope() -> None:
    dy = torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
    below = torch.where(X < 0, X * dy, 0)
    for mode, expected in (("layer", below.sum()[None]), ("channel", below.sum((0, 2)))):
        activation = LearnableLeakyReLU(6, mode=mode)
        activation(X).backward(dy)
        assert activation.slope.grad is not None
        assert_close(mode, expected, activation.slope.grad, 1e-5)


def test_paper_006_it_starts_at_a_hundredth() -> None:
    assert LearnableLeakyReLU(6).slope.tolist() == pytest.approx([0.01])
    assert len(LearnableLeakyReLU(6, mode="channel").slope) == 6


def test_once_learned_it_is_part_of_the_convolution_before() -> None:
    net = Serial(Pointwise(6, 6), FrameWise(LearnableLeakyReLU(6, 0.2)))
    assert isinstance(fuse(net.eval())[0], SeparableConv)


def test_a_mode_that_it_does_not_have() -> None:
    with pytest.raises(ComponentError, match="mode='global': give layer or channel"):
        LearnableLeakyReLU(6, mode="global")
