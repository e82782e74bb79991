"""Norms over whole utterances: valid frames alone count, and they refuse to stream."""

from collections.abc import Callable

import pytest
import torch
from speechkit_norms.utterance import InstanceNorm, LayerNormCT
from torch import nn

from speechkit.errors import StreamError
from speechkit.nn import Chunk
from speechkit.testing import assert_close

Ragged = Callable[..., Chunk]
KINDS = {
    "layer_ct": (LayerNormCT, nn.GroupNorm(1, 8)),
    "instance": (InstanceNorm, nn.InstanceNorm1d(8, affine=True)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_paper_110_each_row_is_as_torch_has_it_alone(kind: str, ragged: Ragged) -> None:
    make, theirs = KINDS[kind]
    norm, c = make(8).double(), ragged()
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    theirs.double().load_state_dict(norm.state_dict())
    y = norm(c)
    for row, length in enumerate(c.lengths.tolist()):
        alone = theirs(c.x[row : row + 1, :, :length])
        assert_close(f"row {row}", alone, y.x[row : row + 1, :, :length], 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_paper_110_training_is_as_evaluation(kind: str, ragged: Ragged) -> None:
    norm, c = KINDS[kind][0](8).double(), ragged()
    assert torch.equal(norm.train()(c).masked, norm.eval()(c).masked)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_valid_frames(kind: str, ragged: Ragged) -> None:
    norm, c = KINDS[kind][0](8).double(), ragged()
    x = c.x.clone().requires_grad_()
    norm(Chunk(x, c.valid)).masked.pow(3).sum().backward()
    assert x.grad is not None
    assert not x.grad.transpose(1, 2)[~c.valid].any()
    for parameter in norm.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_frames_is_finite(kind: str) -> None:
    norm = KINDS[kind][0](8)
    y = norm(Chunk(torch.full((1, 8, 3), torch.nan), torch.zeros(1, 3, dtype=torch.bool)))
    assert torch.isfinite(y.x).all()


@pytest.mark.parametrize(
    ("kind", "instead"),
    [("layer_ct", "norm 'layer_cum' or 'layer'"), ("instance", "norm 'running'")],
)
def test_a_step_says_what_streams(kind: str, instead: str, ragged: Ragged) -> None:
    with pytest.raises(StreamError, match=f"reads the whole utterance .* use {instead}"):
        KINDS[kind][0](8).double().step(ragged(), ())
