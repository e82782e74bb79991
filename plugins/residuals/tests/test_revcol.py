"""Columns of revcol: what they compute, and the nets that they fit."""

from collections.abc import Callable

import pytest
import torch
from speechkit_residuals.revcol import Fuse, Level, revcol
from speechkit_residuals.reversible import ReversibleSequence
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import BodyMaker, Chunk, Residual, StreamLayer, plain_block
from speechkit.testing import check_stream

Maker = Callable[..., BodyMaker]
Frames = Callable[..., Tensor]


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x


def test_paper_097_alpha_keeps_its_sign_and_its_distance_from_zero(maker: Maker) -> None:
    level = Level(plain_block(2, 2, maker()), 2, [2, 2, 2], 1, False, 0.1, True)
    assert level.alpha is not None
    level.alpha.data.copy_(torch.tensor([[-0.01], [0.7]]))
    x = torch.ones(1, 6, 1)
    y = level.add(x, torch.zeros(1, 2, 1))
    assert y.flatten().tolist() == pytest.approx([1, 1, 1, 1, -0.1, 0.7])


def test_paper_097_columns_are_the_formula(maker: Maker, frames: Frames) -> None:
    # two levels, of 6 and of 4 channels, in three columns
    torch.manual_seed(0)
    sizes = [(8, 6), (6, 6), (6, 6), (6, 4), (4, 4), (4, 4)]
    blocks = [plain_block(*size, maker(), index, 6).double() for index, size in enumerate(sizes)]
    stack = revcol([block.eval() for block in blocks], 8, columns=3).double().eval()
    fuses = [m for m in stack.modules() if isinstance(m, Fuse)]
    for fuse in fuses:
        for norm in fuse.norms.values():
            nn.init.normal_(norm.weight)  # type: ignore[arg-type]
    fused = iter(fuses)

    def mapped(fuse: Fuse, name: str, x: Tensor) -> Tensor:
        y = x.transpose(1, 2) @ fuse.maps[name].weight.t()  # type: ignore[operator]
        normal = (y - y.mean(2, keepdim=True)) / (y.var(2, False, keepdim=True) + 1e-5).sqrt()
        return (normal * fuse.norms[name].weight).transpose(1, 2)  # type: ignore[operator]

    x = frames()
    maps = [torch.zeros(()), torch.zeros(())]
    for column in range(3):
        # the first block reads x, the others a map of it and one of the level above
        given = x
        if column:
            fuse = next(fused)
            given = mapped(fuse, "down", x) + mapped(fuse, "up", maps[1])
        maps[0] = run(blocks[column], given) + 0.5 * maps[0]
        given = maps[0] if column == 0 else mapped(next(fused), "down", maps[0])
        maps[1] = run(blocks[3 + column], given) + 0.5 * maps[1]
    assert next(fused, None) is None
    torch.testing.assert_close(run(stack, x), maps[1])


@pytest.mark.parametrize(("columns", "levels"), [(8, 1), (2, 2), (2, 3), (3, 2)])
def test_paper_097_it_streams(maker: Maker, frames: Frames, columns: int, levels: int) -> None:
    blocks = [plain_block(8, 8, maker(), index, 8) for index in range(8)]
    stack = revcol(blocks, 8, columns, levels).double()
    stack(Chunk.of(frames()))
    check_stream(stack.eval(), frames(count=20), torch.tensor([20, 9]))


@pytest.mark.parametrize(
    ("net", "maps"),
    [
        (sk.QuartzNet(size="5x5", stack="revcol"), [256, 256, 512]),
        (sk.MatchboxNet(labels=("a", "b"), size="3x1x64", stack="revcol"), [128, 64]),
        (sk.MarbleNet(size="3x2x64", stack="revcol"), [128, 64]),
        (sk.QuartzNet(size="10x5", stack="revcol:columns=2,levels=2"), [256] * 3 + [512] * 2),
    ],
    ids=["5x5", "matchboxnet", "marblenet", "10x5"],
)
def test_paper_097_the_columns_of_built_nets(net: sk.QuartzNet, maps: list[int]) -> None:
    encoder = sk.build(net).encoder
    (columns,) = (m for m in encoder.modules() if isinstance(m, ReversibleSequence))
    levels = [m for m in columns if isinstance(m, Level)]
    assert len(levels) == 2 * (len(maps) - 1)
    assert [m.own[1] for m in levels] == 2 * maps[1:]
    assert levels[0].below == (0, maps[0])
    # every residual block is in one of them
    rows = sum(row.copies for row in net.blocks if row.residual)
    inside = [m for m in columns.modules() if isinstance(m, Residual)]
    assert len(inside) == rows


def test_paper_097_fewer_than_two_columns_are_refused() -> None:
    with pytest.raises(ComponentError, match="4 columns of 1 levels need 4 residual blocks of one"):
        sk.build(sk.MatchboxNet(labels=("a", "b"), stack="revcol:columns=4"))
    with pytest.raises(ComponentError, match="columns=1"):
        sk.build(sk.QuartzNet(size="5x5", stack="revcol:columns=1"))
