import pytest
import torch
import torch.nn.functional as F

from speechkit.nn import Chunk, DenseConv, DepthwiseConv
from speechkit.testing import assert_close, check_stream, dyadic_


@pytest.mark.parametrize("lookahead", ["same", 0, 1, 3, 99])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(5, 1, 1), (5, 2, 1), (4, 1, 3), (1, 2, 1)]
)
def test_equals_a_padded_convolution(
    kernel: int, stride: int, dilation: int, lookahead: int | str
) -> None:
    layer = DenseConv(3, 4, kernel, stride, dilation, lookahead).double()  # type: ignore[arg-type]
    x = torch.randn(2, 3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = F.pad(x, (layer.left, layer.right))
    expected = F.conv1d(padded, layer.weight, stride=stride, dilation=dilation)
    assert_close("y", expected, layer(Chunk.of(x)).x, 1e-12)
    check_stream(layer, x, torch.tensor([40, 17]))


def test_look_ahead_decides_delay_and_state() -> None:
    shapes = {
        ahead: (layer.left, layer.right, layer.delay, layer.keep)
        for ahead in ("same", 0, 1, 4)
        for layer in [DepthwiseConv(1, 5, stride=2, lookahead=ahead)]
    }
    assert shapes == {"same": (2, 2, 1, 4), 0: (4, 0, 0, 4), 1: (3, 1, 0, 3), 4: (0, 4, 2, 4)}


def test_output_reads_no_further_than_declared() -> None:
    layer = DepthwiseConv(2, 5, dilation=2, lookahead=3)
    x = torch.randn(1, 2, 30, requires_grad=True)
    layer(Chunk.of(x)).x[0, 0, 15].backward()
    assert x.grad is not None
    read = x.grad[0, 0].nonzero()[:, 0] - 15
    assert (int(read.min()), int(read.max())) == (-layer.left, layer.right)


def test_dyadic_weights_stream_to_the_same_bits() -> None:
    layer = dyadic_(DenseConv(8, 8, 5, 2))
    x = torch.randint(-3, 4, (2, 8, 50), generator=torch.Generator().manual_seed(0)).float()
    check_stream(layer, x, torch.tensor([50, 31]), chunks=(1, 3, 9), rtol=0)  # type: ignore[arg-type]


def test_an_utterance_of_no_frames_gives_none() -> None:
    assert DepthwiseConv(3, 5)(Chunk.of(torch.zeros(2, 3, 0))).x.shape == (2, 3, 0)


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="lookahead -1"):
        DepthwiseConv(3, 5, lookahead=-1)
    with pytest.raises(ValueError, match="kernel 0"):
        DepthwiseConv(3, 0)
