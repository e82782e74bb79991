import pytest
import torch
from torch import nn

from speechkit.nn import BatchNorm, Bias, Chunk, Dropout, Pointwise
from speechkit.testing import assert_close, check_stream


def ragged(seed: int = 0) -> Chunk:
    x = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    return Chunk.of(x, torch.tensor([20, 11, 5]))


def test_pointwise_is_a_matrix_at_every_frame() -> None:
    layer = Pointwise(4, 6, bias=True)
    c = ragged()
    assert layer.bias is not None
    expected = torch.einsum("oc,bct->bot", layer.weight, c.x) + layer.bias[:, None]
    assert_close("y", expected, layer(c).x, 1e-6)
    assert layer(c).x.stride(1) == 1
    check_stream(layer.double(), c.x.double(), c.lengths)


def test_batch_norm_in_training_sees_valid_frames_only() -> None:
    c = ragged()
    norm = BatchNorm(4).train()
    y = norm(c)
    spoiled = Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid)
    again = BatchNorm(4).train()
    assert torch.equal(again(spoiled).masked, y.masked)
    assert torch.equal(again.running_mean, norm.running_mean)
    frames = y.x.transpose(1, 2)[c.valid]
    assert_close("mean", torch.ones(4), frames.mean(0) + 1, 1e-5)
    assert_close("std", torch.ones(4), frames.std(0, unbiased=False), 1e-2)


def test_batch_norm_learns_the_statistics_torch_does() -> None:
    ours, theirs = BatchNorm(4).train(), nn.BatchNorm1d(4, eps=1e-3).train()
    x = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        assert_close("y", theirs(x), ours(Chunk.of(x)).x, 1e-5)
    assert_close("mean", theirs.running_mean, ours.running_mean, 1e-5)
    assert_close("var", theirs.running_var, ours.running_var, 1e-5)
    theirs.eval()
    assert_close("eval", theirs(x), ours.eval()(Chunk.of(x)).x, 1e-5)


def test_batch_norm_gradients_reach_valid_frames_alone() -> None:
    c = ragged()
    x = c.x.clone().requires_grad_()
    norm = BatchNorm(4).train()
    norm(Chunk(x, c.valid)).masked.square().sum().backward()
    assert x.grad is not None
    assert not x.grad.transpose(1, 2)[~c.valid].any()


def test_bias_adds_per_channel() -> None:
    layer = Bias(4)
    nn.init.normal_(layer.bias)
    x = torch.zeros(2, 4, 3)
    assert torch.equal(layer(x)[1, :, 2], layer.bias)


def test_dropout_drops_its_share_and_makes_up_for_it() -> None:
    torch.manual_seed(0)
    x = torch.full((3, 129, 1001), 2.0)
    for p in (0.1, 0.25, 0.5):
        y = Dropout(p)(x)
        assert y.unique().tolist() == pytest.approx([0, 2 / (1 - p)], rel=1e-4)
        assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.004)
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()


def test_dropout_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.3)(torch.ones(400_000)) != 0).float()
    for lag in (1, 2, 3, 4):
        both = (kept[lag:] * kept[:-lag]).mean().item()
        assert both == pytest.approx(0.49, abs=0.004)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_has_the_gradient_of_what_it_kept(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 7).to(dtype).transpose(1, 2).requires_grad_()
    y = Dropout(0.5)(x)
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient * x, y)
    assert gradient.unique().tolist() == [0, 2]


def test_dropout_in_evaluation_is_nothing_and_its_numbers_follow_the_seed() -> None:
    x = torch.randn(2, 5, 7)
    layer = Dropout(0.5)
    torch.manual_seed(3)
    first, other = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(other, first)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_takes_views_with_gaps() -> None:
    x = torch.randn(2, 5, 70)[:, 1:4, ::2]
    y = Dropout(0.5)(x)
    kept = y != 0
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(y[kept], 2 * x[kept])
