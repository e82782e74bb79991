"""The LSTM with norms: torch's where they are taken out, and a stream."""

from collections.abc import Callable

import torch
from speechkit_norms.lstm import LayerNormLSTM, ln_lstm
from torch import nn

from speechkit.nn import Chunk
from speechkit.testing import assert_close, check_stream

Ragged = Callable[..., Chunk]


def test_paper_110_without_its_norms_it_is_torchs_lstm() -> None:
    theirs = nn.LSTM(5, 7, batch_first=True).double()
    ours = LayerNormLSTM(5, 7).double()
    ours.input_norm = ours.recurrent_norm = ours.cell_norm = nn.Identity()
    with torch.no_grad():
        ours.input.weight.copy_(theirs.weight_ih_l0)
        ours.recurrent.weight.copy_(theirs.weight_hh_l0)
        ours.bias.copy_(theirs.bias_ih_l0 + theirs.bias_hh_l0)
    x = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, _ = theirs(x)
    assert_close("h", expected.transpose(1, 2), ours(Chunk.of(x.transpose(1, 2))).x, 1e-12)


def test_paper_110_it_is_the_formula() -> None:
    lstm = LayerNormLSTM(5, 7).double()
    for seed, parameter in enumerate(lstm.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
    x = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def norm(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (a - a.mean()) / (a.var(unbiased=False) + 1e-5).sqrt() * weight

    h = c = torch.zeros(7, dtype=torch.float64)
    for t in range(2):
        given = norm(lstm.input.weight @ x[0, :, t], lstm.input_norm.weight)
        before = norm(lstm.recurrent.weight @ h, lstm.recurrent_norm.weight)
        i, f, g, o = (given + before + lstm.bias).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * (norm(c, lstm.cell_norm.weight) + lstm.cell_norm.bias).tanh()
    assert_close("h", h, lstm(Chunk.of(x)).x[0, :, 1], 1e-12)


def test_paper_110_the_scale_of_its_weights_does_not_matter() -> None:
    lstm = LayerNormLSTM(5, 7, eps=1e-12).double()
    x = Chunk.of(torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0)).double())
    y = lstm(x).x
    with torch.no_grad():
        lstm.input.weight *= 3
        lstm.recurrent.weight *= 0.5
    assert_close("h", y, lstm(x).x, 1e-9)


def test_it_streams_at_a_stride(ragged: Ragged) -> None:
    c = ragged(4)
    mixer = ln_lstm(4, kernel=5, stride=2, dilation=1, lookahead="same").double()
    check_stream(mixer, c.x[:, :, :19], c.lengths.clamp(max=19))
    assert mixer(c).x.shape == (3, 4, 10)


def test_frames_in_between_that_are_not_valid_change_nothing(ragged: Ragged) -> None:
    lstm, x = LayerNormLSTM(4, 7).double(), ragged(4).x[:1]
    gap = Chunk(torch.full_like(x[:, :, :4], torch.nan), torch.zeros(1, 4, dtype=torch.bool))
    _, before = lstm.step(Chunk.of(x), lstm.init_state(1, 4, torch.float64))
    _, after = lstm.step(gap, before)
    assert all(map(torch.equal, before, after))
