"""RepBN and PRepBN: what they are in training, in evaluation, and folded."""

import copy
from collections.abc import Callable

import pytest
import torch
from speechkit_norms.batch import PRepBN, RepBN
from speechkit_norms.frame import LayerNorm

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, Pointwise, SeparableConv, Serial, StreamLayer, fuse
from speechkit.testing import assert_close

Ragged = Callable[..., Chunk]


def trained(norm: StreamLayer, ragged: Ragged, dtype: torch.dtype = torch.float64) -> StreamLayer:
    """The norm with statistics and weights that are not their initial ones."""
    norm = norm.to(dtype).train()
    with torch.no_grad():
        for seed in range(5):
            norm(ragged(dtype=dtype, seed=seed))
        for seed, parameter in enumerate(norm.parameters()):
            chance = torch.Generator().manual_seed(seed)
            parameter += 0.3 * torch.randn(parameter.shape, generator=chance).to(dtype)
    return norm.eval()


def test_paper_100_repbn_is_batch_norm_and_a_share_of_its_input(ragged: Ragged) -> None:
    norm, c = trained(RepBN(8), ragged), ragged()
    batch = norm.batch
    mean, deviation = batch.running_mean, (batch.running_var + batch.eps).sqrt()
    normal = (c.x - mean[:, None]) / deviation[:, None]
    expected = normal * batch.weight[:, None] + batch.bias[:, None] + norm.alpha * c.x
    assert_close("y", Chunk(expected, c.valid).masked, norm(c).masked, 1e-12)


@pytest.mark.parametrize("make", [RepBN, lambda channels: PRepBN(channels, steps=4)])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_paper_100_it_folds_to_one_convolution(
    make: Callable[[int], StreamLayer], dtype: torch.dtype, rtol: float, ragged: Ragged
) -> None:
    norm, c = trained(make(8), ragged, dtype), ragged(dtype=dtype)
    net = Serial(Pointwise(8, 8).to(dtype), norm).eval()
    folded = fuse(net)
    assert isinstance(folded, Serial)
    assert [type(layer) for layer in folded] == [SeparableConv]
    with torch.no_grad():
        assert_close("y", net(c).masked, folded(c).masked, rtol)


def test_paper_100_statistics_are_of_valid_frames(ragged: Ragged) -> None:
    c = ragged()
    clean = Chunk(c.masked, c.valid)
    for make in (RepBN, PRepBN):
        norm = make(8).double().train()
        again = copy.deepcopy(norm)
        assert torch.equal(norm(c).masked, again(clean).masked)
        for name, value in norm.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name


def test_paper_100_it_begins_as_the_first_norm(ragged: Ragged) -> None:
    c = ragged()
    expected = LayerNorm(8).double()(c.x)
    for norm in (PRepBN(8), PRepBN(8, warm=3, r0=0.5)):
        y = norm.double().train()(c)
        assert torch.equal(Chunk(expected, c.valid).masked, y.masked)


def test_paper_100_it_ends_as_repbn(ragged: Ragged) -> None:
    norm, c = PRepBN(8, steps=5).double(), ragged()
    trained(norm, ragged)
    assert norm.share == 0
    alone = copy.deepcopy(norm.rep).train()
    assert torch.equal(norm.train()(c).masked, alone(c).masked)
    # with the statistics of evaluation, training gives what evaluation gives
    norm.rep.batch.eval()
    y = norm(c).masked
    assert torch.equal(y, norm.eval()(c).masked)


def test_paper_100_the_first_norms_share_falls_linearly(ragged: Ragged) -> None:
    norm, shares = PRepBN(8, warm=2, steps=4, r0=0.8).double().train(), []
    for _ in range(8):
        shares.append(norm.share.item())
        norm(ragged())
    assert shares == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0])
    norm.eval()(ragged())
    assert norm.share == 0


def test_the_count_is_stored(ragged: Ragged) -> None:
    norm = PRepBN(8, steps=10).double().train()
    for _ in range(3):
        norm(ragged())
    other = PRepBN(8, steps=10).double()
    other.load_state_dict(norm.state_dict())
    assert other.share.item() == pytest.approx(0.7)


def test_any_norm_may_come_first(ragged: Ragged) -> None:
    norm, c = PRepBN(8, first="rms:p=0.5").double().train(), ragged()
    assert type(norm.first.module).__name__ == "RMSNorm"
    assert torch.isfinite(norm(c).masked).all()


def test_steps_that_make_no_sense() -> None:
    with pytest.raises(ComponentError, match="warm=0, steps=0: give"):
        PRepBN(8, steps=0)
