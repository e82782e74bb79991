"""Lambda layers: what is said of the frames so far and of those around (paper 55)."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from speechkit_mixers.lambdas import LARGEST, Content, Maps, Position, lambda_layer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import Chunk, Serial, StreamLayer
from speechkit.testing import assert_close, check_native, check_stream

LENGTHS = torch.tensor([97, 50])
WIDTHS = 8, 4, 6
"""Two heads of four keys, and six values."""


def frames(channels: int = 12, count: int = 97) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, count, generator=chance, dtype=torch.float64)


def layer_of(channels: int = 12, stride: int = 1, lookahead: int = 2, **fields: int) -> Serial:
    torch.manual_seed(0)
    layer = lambda_layer(channels, 5, stride, 2, lookahead, **{"heads": 2, "keys": 4, **fields})
    norm = layer.get_submodule("maps.norm")
    for name in ("running_mean", "running_var", "weight", "bias"):
        torch.nn.init.uniform_(getattr(norm, name), 0.5, 2)
    return layer.double().eval()


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Chunk = layer(Chunk.of(x))
    return y.x


def test_paper_055_it_equals_a_loop_over_frames() -> None:
    layer, x = layer_of(), frames()
    maps, norm = layer.get_submodule("maps.linear"), layer.get_submodule("maps.norm")
    given = (maps.weight.detach() @ x[0]).t()
    scale = norm.weight / (norm.running_var + 1e-3).sqrt()
    normed = (torch.cat([given[:, :8], given[:, 12:]], 1) - norm.running_mean) * scale + norm.bias
    q, keys, v = normed[:, :8].view(97, 2, 4), given[:, 8:12], normed[:, 8:]
    position = layer.get_parameter("sum.shortcut.weight")[:, 0]
    expected = []
    for n in range(97):
        matrix = keys[: n + 1].softmax(0).t() @ v[: n + 1]
        for j in range(5):
            # with a dilation of 2 and 2 frames of look-ahead
            m = n - 6 + 2 * j
            if 0 <= m < 97:
                matrix = matrix + torch.outer(position[:, j], v[m])
        expected.append((q[n] @ matrix).flatten())
    assert_close("lambda", torch.stack(expected, 1).detach(), run(layer, x)[0], 1e-12)


@pytest.mark.parametrize(
    ("channels", "stride", "lookahead", "heads"), [(12, 1, 0, 2), (64, 2, 4, 4), (20, 3, 9, 1)]
)
def test_paper_055_chunks_and_the_native_step_equal_the_whole(
    channels: int, stride: int, lookahead: int, heads: int
) -> None:
    layer, x = layer_of(channels, stride, lookahead, heads=heads), frames(channels)
    assert layer.right == min(lookahead, 8)
    check_stream(layer, x, LENGTHS, chunks=(1, [1, 16, 23], 64))
    check_native(layer.float(), x.float(), LENGTHS)


def test_paper_055_the_order_of_earlier_frames_does_not_matter_to_the_content() -> None:
    layer, x = Content(WIDTHS, 1), frames(18)
    order = torch.cat(
        [torch.randperm(96, generator=torch.Generator().manual_seed(0)), torch.tensor([96])]
    )
    expected, y = run(layer, x)[:, :, -1], run(layer, x[:, :, order])[:, :, -1]
    assert_close("content", expected, y, 1e-12)


def test_paper_055_positions_are_relative() -> None:
    torch.manual_seed(0)
    layer, x = Position(WIDTHS, 5, 1, 2, 4).double(), frames(18)
    whole = run(layer, x)
    assert_close("position", whole[:, :, 34:66], run(layer, x[:, :, 30:70])[:, :, 4:36], 1e-12)


def test_paper_055_a_large_key_does_not_hide_the_frames_before_it() -> None:
    x = frames(18)
    x[:, 8:12, 60:] += 100
    y = run(Content(WIDTHS, 1), x)
    assert_close("before", run(Content(WIDTHS, 1), x[:, :, :60]), y[:, :, :60], 1e-12)
    check_stream(Content(WIDTHS, 1), x, chunks=(1, 16))
    check_native(Content(WIDTHS, 1), x.float())
    assert run(Content(WIDTHS, 1), 1000 * x.float()).isfinite().all()


def test_paper_055_within_the_bound_it_is_a_softmax_and_so_are_its_gradients() -> None:
    x = frames(18)
    x[:, 8:12] = LARGEST * torch.rand(2, 4, 97, generator=torch.Generator().manual_seed(0)).mul(
        2
    ).sub(1)
    one, other = x.float().requires_grad_(), x.clone().requires_grad_()
    y = Content(WIDTHS, 1)(Chunk.of(one)).x
    q, keys, v = other.transpose(1, 2).split(WIDTHS, dim=2)
    seen = torch.ones(97, 97, dtype=torch.bool).tril()
    shares = keys.transpose(1, 2)[:, :, None].masked_fill(~seen, -torch.inf).softmax(3)
    heads = torch.einsum("bnhk,bknm,bmv->bnhv", q.unflatten(2, (2, 4)), shares, v)
    expected = heads.flatten(2).transpose(1, 2)
    assert_close("content", expected.detach(), y.detach().double(), 1e-5)
    for given in (y, expected):
        given.square().sum().backward()
    assert one.grad is not None
    assert other.grad is not None
    for name, part in {"q": slice(8), "keys": slice(8, 12), "v": slice(12, 18)}.items():
        assert_close(name, other.grad[:, part], one.grad[:, part].double(), 1e-5)


def test_paper_055_keys_begin_far_within_the_bound(family: Callable[..., Net]) -> None:
    config = family(mixer="mixers/lambda", frontend="log_mel:normalize=fixed")
    model, largest = sk.build(config, seed=0).train(), []

    def look(maps: Maps, given: Any, made: Chunk) -> None:
        largest.append(made.x.split(maps.widths, dim=1)[1].abs().max())

    for maps in (m for m in model.modules() if isinstance(m, Maps)):
        maps.register_forward_hook(look)
    with torch.no_grad():
        model(0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)))
    assert len(largest) >= 3
    assert max(largest) < LARGEST / 2


def test_paper_055_a_large_sum_still_grows() -> None:
    # a frame of weight 4 · 10⁷, to which a float adds no 1
    x = torch.zeros(1, 3, 2000)
    x[:, 0], x[:, 1, 0], x[:, 2] = 1, 17.5, -1
    x[:, 2, 0] = 1
    layer, weight = Content((1, 1, 1), 1), math.exp(17.5)
    assert float(run(layer, x)[0, 0, -1]) == pytest.approx(1 - 2 * 1999 / (weight + 1999), abs=1e-5)
    check_stream(layer, x, chunks=(1,), rtol=1e-5)
    check_native(layer, x, strides=(10,), rtol=1e-5)


class Made(TorchDispatchMode):
    """Counts the bytes of all tensors that are made."""

    total = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {x.data_ptr() for x in storages((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        self.total += sum(x.nbytes() for x in storages(made) if x.data_ptr() not in given)
        return made


def storages(values: object) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(values) if isinstance(x, Tensor)]


@pytest.mark.slow
def test_paper_055_8000_frames_take_less_than_a_gigabyte() -> None:
    layer = lambda_layer(64, 23, 1, 1, "same")
    x = torch.randn(1, 64, 8000, generator=torch.Generator().manual_seed(0))
    with Made() as made:
        run(layer, x)
    # of all tensors, of which not all are there at once; the weights of 4 heads would be a gigabyte
    assert made.total < 1e9


def test_paper_055_the_norm_is_folded_into_the_maps() -> None:
    maps, x = layer_of().get_submodule("maps"), frames()
    assert isinstance(maps, Maps)
    assert_close("folded", run(maps, x), run(maps.fuse().double(), x), 1e-12)


def test_paper_055_a_row_of_a_net_begins_as_the_layer() -> None:
    row = sk.Block(channels=256, kernel=23, residual=True, mixer="mixers/lambda")
    stem = sk.Block(channels=256, kernel=3, stride=2)
    torch.manual_seed(0)
    model = sk.build(sk.QuartzNet(labels=("a", "b"), blocks=(stem, row)), seed=0)
    (maps,), (position,) = (
        [m for m in model.modules() if isinstance(m, kind)] for kind in (Maps, Position)
    )
    assert float(maps.linear.weight.detach().std()) == pytest.approx(256**-0.5, rel=0.05)
    assert float(position.weight.detach().std()) == pytest.approx(16**-0.5, rel=0.1)


def test_paper_055_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ComponentError, match="heads=5, keys=16 for 12 channels; give heads"):
        lambda_layer(12, 5, 1, 1, 0, heads=5)
