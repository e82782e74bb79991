import torch
from torch import nn

from speechkit.nn import BatchNorm, Bias, Chunk, Pointwise
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
