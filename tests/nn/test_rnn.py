"""The GRU of a row: torch's own numbers, any stride and any chunks."""

import pytest
import torch
from torch import nn

from speechkit.frontend import PCENAndLevel
from speechkit.nn import Chunk, Rnn, RnnMixer
from speechkit.testing import check_native, check_stream


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_row_has_the_numbers_of_torch(stride: int) -> None:
    mixer, x = RnnMixer(6, stride, "gru").double(), noise(2, 6, 11)
    own = nn.GRU(6, 6, batch_first=True).double()
    for given, weight in zip(own.parameters(), mixer.rnn.matrices(), strict=True):
        given.data.copy_(weight)
    expected = own(x.transpose(1, 2))[0].transpose(1, 2)[:, :, ::stride]
    y = mixer(Chunk.of(x, torch.tensor([11, 5])))
    torch.testing.assert_close(y.x[:1], expected[:1])
    assert y.lengths.tolist() == [-(-11 // stride), -(-5 // stride)]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_row_streams_in_any_chunks(stride: int) -> None:
    mixer = RnnMixer(6, stride, "gru").double()
    check_stream(mixer, noise(2, 6, 40), torch.tensor([40, 17]), [[6, 2, 20, 12]])


def test_a_frame_is_valid_if_the_one_that_it_is_taken_from_is() -> None:
    y = RnnMixer(6, 2, "gru").double()(Chunk.of(noise(3, 6, 12), torch.tensor([12, 11, 5])))
    assert y.valid.sum(1).tolist() == [6, 6, 3]


def test_padded_rows_equal_packed_ones() -> None:
    rnn, x = Rnn(6, 6, "gru").double(), noise(3, 6, 12)
    valid = torch.arange(12) < torch.tensor([12, 5, 0])[:, None]
    state = (noise(3, 6),)
    y, (last,) = rnn.step(Chunk(x, valid), state)
    rows, (packed,) = rnn._packed(
        x.transpose(1, 2), valid.sum(1), [rnn._directions(part) for part in state]
    )
    torch.testing.assert_close(y.masked, Chunk(rows.transpose(1, 2), valid).masked)
    torch.testing.assert_close(last[:2], packed[0, :2])
    torch.testing.assert_close(last[2], state[0][2])


def test_its_multiply_adds_are_those_of_six_matrices() -> None:
    assert RnnMixer(16, 2, "gru").macs(10) == 10 * 6 * 16 * 16


def test_it_runs_natively() -> None:
    x = noise(2, 16, 40).float()
    for stride in (1, 2):
        check_native(RnnMixer(16, stride, "gru").eval(), x)
    check_native(PCENAndLevel(16).eval(), x)
