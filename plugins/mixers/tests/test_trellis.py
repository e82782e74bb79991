"""A trellis network is a truncated recurrence; its weights do not depend on its levels."""

from typing import Any

import pytest
import torch
from speechkit_mixers.trellis import Trellis
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import Chunk
from speechkit.train.optim import parameter_groups

STEPS = 5


def noise(frames: int = 30, channels: int = 3) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, frames, generator=chance, dtype=torch.float64)


def made(channels: int = 3, **params: Any) -> Trellis:
    """A layer whose weights are large enough to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Trellis(channels, 1, **params).double()
        for weight in layer.parameters():
            nn.init.normal_(weight, std=0.5)
    return layer.eval()


@torch.no_grad()
def as_trellis(recurrent: nn.LSTMCell | nn.RNNCell, cell: str) -> Trellis:
    """The theorem: only the frame's own x and the earlier frame's h have weights."""
    c_in, hidden = recurrent.input_size, recurrent.hidden_size
    layer = Trellis(
        c_in, 1, levels=STEPS, hidden=hidden, widest=1, cell=cell, weight_norm=False
    ).double()
    layer.channels = hidden
    # torch has i, f, g, o
    order = [0, 3, 2, 1] if cell == "lstm" else [0]
    given, back, bias = (
        torch.cat([weight.chunk(len(order))[k] for k in order])
        for weight in (
            recurrent.weight_ih,
            recurrent.weight_hh,
            recurrent.bias_ih + recurrent.bias_hh,
        )
    )
    layer.given.copy_(torch.cat([torch.zeros_like(given), given], dim=1))
    layer.recurrent.copy_(torch.cat([back, torch.zeros_like(back)], dim=1))
    layer.bias.copy_(bias)
    return layer


@pytest.mark.parametrize("cell", ["lstm", "tanh"])
def test_paper_086_m_levels_are_a_recurrence_of_m_steps(cell: str) -> None:
    torch.manual_seed(0)
    recurrent = (nn.LSTMCell if cell == "lstm" else nn.RNNCell)(3, 4).double()
    layer, x = as_trellis(recurrent, cell), noise()
    y = layer(Chunk.of(x)).x
    for t in range(x.shape[2]):
        state: Any = None
        for frame in x[:, :, max(0, t + 1 - STEPS) : t + 1].unbind(2):
            state = recurrent(frame, state)
        expected = state[0] if cell == "lstm" else state
        torch.testing.assert_close(y[:, :, t], expected, rtol=0, atol=1e-12)


def test_paper_086_more_levels_have_no_more_weights() -> None:
    few, many = (
        sum(p.numel() for p in Trellis(8, 1, levels=levels).parameters()) for levels in (11, 22)
    )
    # W, U, b and the two lengths of each row
    assert few == many == 4 * 8 * (2 * 8 + 2 * 8 + 1 + 2)


def test_paper_086_distances_double_and_begin_again() -> None:
    papers = made(levels=11, widest=512)
    assert papers.distances == [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert papers.left == 1024
    assert made(levels=22, widest=512).distances == 2 * papers.distances
    assert made().distances == [1, 1, 2, 4, 8, 16, 1, 1, 2, 4, 8]


def test_paper_086_y_reads_exactly_the_frames_of_its_distances() -> None:
    x = noise(30).requires_grad_()
    made(levels=6, widest=4)(Chunk.of(x)).x[:, :, 20].sum().backward()
    assert x.grad is not None
    read = x.grad.abs().sum((0, 1)).nonzero().flatten()
    assert (int(read.min()), int(read.max())) == (20 - 10, 20)


@pytest.mark.parametrize("cell", ["lstm", "tanh"])
def test_paper_086_invalid_frames_before_the_first_are_zeros(cell: str) -> None:
    layer, x = made(levels=5, widest=4, cell=cell), noise()
    valid = torch.arange(x.shape[2]).expand(2, -1) >= 7
    y = layer(Chunk(x, valid)).x[:, :, 7:]
    torch.testing.assert_close(y, layer(Chunk.of(x[:, :, 7:])).x, rtol=0, atol=1e-12)


def test_paper_086_weight_norm_keeps_each_rows_length() -> None:
    torch.manual_seed(0)
    layer = Trellis(4, 1, hidden=6)
    given, recurrent = layer.matrices()
    torch.testing.assert_close(given, layer.given)
    torch.testing.assert_close(recurrent, layer.recurrent)
    with torch.no_grad():
        layer.given.mul_(3)
        layer.scales[0].mul_(2)
    torch.testing.assert_close(layer.matrices()[0], 2 * given)


@pytest.mark.parametrize(
    "params",
    [
        {"levels": 5, "widest": 4},
        {"levels": 3, "widest": 2, "stride": 2},
        {"levels": 1},
        {"levels": 4, "widest": 2, "hidden": 5, "weight_norm": False},
        {"levels": 4, "widest": 2, "cell": "tanh"},
    ],
)
def test_a_stream_and_the_native_step_equal_the_whole(params: dict[str, Any]) -> None:
    layer, lengths = made(**params), torch.tensor([30, 17])
    sk.testing.check_stream(layer, noise(), lengths)
    sk.testing.check_native(layer.float(), noise().float(), lengths)


def test_paper_086_a_built_net_begins_as_the_authors() -> None:
    rows = (
        sk.Block(channels=64, kernel=11),
        sk.Block(channels=64, kernel=13, residual=True, mixer="trellis"),
    )
    model = sk.build(sk.MatchboxNet(labels=("a", "b"), blocks=rows))
    (layer,) = [m for m in model.modules() if isinstance(m, Trellis)]
    for weight in (layer.given, layer.recurrent, layer.bias):
        assert weight.std().item() == pytest.approx(0.01, rel=0.1)
    _, spared = ({id(p) for p in group["params"]} for group in parameter_groups(model))
    assert id(layer.scales) in spared


def test_what_is_no_trellis_is_refused() -> None:
    for params in ({"levels": 0}, {"hidden": 2}, {"widest": 0}, {"cell": "gru"}):
        with pytest.raises(ComponentError, match=next(iter(params))):
            made(**params)
