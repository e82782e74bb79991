"""The element-wise LSTM and real-time recurrent learning (paper 68)."""

from collections.abc import Callable

import pytest
import torch
from speechkit_mixers.elstm import Elstm, elstm
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import Chunk
from speechkit.testing import assert_close, check_native, check_stream

Frames = Callable[..., Tensor]


def made(stride: int = 1, learn: str = "bptt", channels: int = 8) -> Elstm:
    torch.manual_seed(0)
    layer = elstm(channels, 5, stride, 1, 0, learn, forget_bias=1.0)
    # larger than at first, so that the past counts
    for parameter in (layer.weight, layer.own):
        parameter.data.mul_(5)
    return layer


def test_paper_068_it_equals_a_loop_over_frames(frames: Frames) -> None:
    layer, x = made().double(), frames(count=13)
    (of_z, of_f), (own_z, own_f), (bias_z, bias_f) = layer.weight.chunk(2), layer.own, layer.bias
    c, expected = torch.zeros(2, 8, dtype=torch.float64), []
    for t in range(13):
        z = torch.tanh(x[:, :, t] @ of_z.T + own_z * c + bias_z)
        f = torch.sigmoid(x[:, :, t] @ of_f.T + own_f * c + bias_f)
        c = f * c + (1 - f) * z
        expected.append(c)
    assert_close("elstm", torch.stack(expected, 2), layer(Chunk.of(x)).x, 1e-14)


def gradients(learn: str, c: Chunk, state: Tensor, stride: int = 1) -> list[Tensor]:
    layer = made(stride, learn).double()
    y, _ = layer.step(c, (state,))
    weights = torch.linspace(-1, 1, y.x.numel(), dtype=torch.float64).view_as(y.x)
    (y.x.sin() * weights).sum().backward()
    return [p.grad for p in layer.parameters() if p.grad is not None]


@pytest.mark.parametrize("stride", [1, 2])
def test_paper_068_the_sweep_gives_the_gradients_of_autograd(frames: Frames, stride: int) -> None:
    c = Chunk.of(frames(count=70, seed=3), torch.tensor([70, 41]))
    # frames that are not valid before and in between
    c = c._replace(valid=c.valid & (torch.arange(70) > 2) & (torch.arange(70) != 30))
    state = torch.randn(2, 8, generator=torch.Generator().manual_seed(1)).double()
    online, whole = (gradients(learn, c, state, stride) for learn in ("rtrl", "bptt"))
    assert len(online) == 3
    for got, expected in zip(online, whole, strict=True):
        assert expected.abs().min() > 0
        assert_close("gradient", expected, got, 1e-12)


def test_paper_068_the_inputs_gradient_is_that_through_its_own_frame(frames: Frames) -> None:
    layer, x = made(learn="rtrl").double(), frames(count=9).requires_grad_()
    c = Chunk.of(x)
    (got,) = torch.autograd.grad(layer(c).x.square().sum(), x)
    known, expected, state = made().double(), [], torch.zeros(2, 8, dtype=torch.float64)
    for t in range(9):
        frame = x.detach()[:, :, t : t + 1].requires_grad_()
        y, (state,) = known.step(Chunk.of(frame), (state.detach(),))
        expected.append(torch.autograd.grad(y.x.square().sum(), frame)[0])
    assert_close("own frame", torch.cat(expected, 2), got, 1e-12)


def saved_bytes(learn: str, frames: int) -> int:
    """What the layer keeps for the backward pass beside its input and the mask of it."""
    layer, sizes = made(learn=learn), {}
    c = Chunk.of(torch.zeros(1, 8, frames))

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(c)
    given = c.masked.numel() * 4 + c.valid.numel()
    assert y.x.requires_grad
    return sum(sizes.values()) - given


def test_paper_068_what_is_saved_does_not_grow_with_time() -> None:
    assert saved_bytes("rtrl", 50) == saved_bytes("rtrl", 800) < 2000
    assert saved_bytes("bptt", 800) > 10 * saved_bytes("bptt", 50)


@pytest.mark.parametrize("learn", ["bptt", "rtrl"])
def test_paper_068_it_learns_to_copy_a_bit(learn: str) -> None:
    """The sign of the first frame, ten frames later."""
    chance = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = elstm(8, 1, 1, 1, 0, learn, forget_bias=1.0)
    optimizer = torch.optim.Adam(layer.parameters(), 0.03)
    for _ in range(150):
        x = torch.zeros(32, 8, 11)
        x[:, 0, 0] = torch.randint(2, (32,), generator=chance) * 2.0 - 1
        x[:, 1] = 1
        loss = (layer(Chunk.of(x)).x[:, 0, -1] - 0.8 * x[:, 0, 0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


@pytest.mark.parametrize("stride", [1, 2])
def test_paper_068_a_stream_and_the_native_step_equal_the_whole(
    frames: Frames, stride: int
) -> None:
    x, lengths = frames(count=40), torch.tensor([40, 17])
    check_native(made(stride).eval(), x.float(), lengths)
    check_stream(made(stride, "rtrl").double().eval(), x, lengths)


def test_paper_068_it_starts_as_in_the_paper_in_a_built_net() -> None:
    row = sk.Block(
        channels=64, kernel=11, residual=True, mixer="mixers/elstm:learn=rtrl,forget_bias=2"
    )
    model = sk.build(
        sk.MatchboxNet(labels=("a", "b"), blocks=(sk.Block(channels=64, kernel=11), row))
    )
    (layer,) = (m for m in model.modules() if isinstance(m, Elstm))
    assert layer.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert layer.bias[1].mean().item() == pytest.approx(2, abs=0.05)
    assert model(torch.zeros(1, 4000)).scores.isfinite().all()


def test_paper_068_an_unknown_way_to_learn_is_refused() -> None:
    with pytest.raises(ComponentError, match="learn='uoro'; give bptt or rtrl"):
        made(learn="uoro")
