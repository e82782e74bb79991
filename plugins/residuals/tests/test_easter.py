"""Easter2: its dense residual, loss, augmentations and the whole net."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from speechkit_residuals.concat import Concat
from speechkit_residuals.easter import dense_easter, easter2
from speechkit_residuals.focal_ctc import FocalCTC
from speechkit_residuals.parts import squeeze_excite
from speechkit_residuals.taco import Taco
from torch import Tensor, nn

import speechkit as sk
from speechkit.data import Utterance, write_manifest
from speechkit.errors import ComponentError, StreamError
from speechkit.export import export
from speechkit.nn import (
    BodyMaker,
    Chunk,
    DenseConv,
    Dropout,
    FrameWise,
    Pointwise,
    StreamLayer,
    plain_block,
)
from speechkit.testing import check_stream
from speechkit.train import Data, Run, fit
from speechkit.train.batches import run_augmentations

Maker = Callable[..., BodyMaker]
Frames = Callable[..., Tensor]


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x


def test_paper_025_squeeze_and_excitation_of_zeros_is_a_half(frames: Frames) -> None:
    layer = squeeze_excite(8).double()
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(run(layer, frames()), frames() / 2)


def test_paper_025_squeeze_and_excitation_may_use_the_mean_of_the_utterance(frames: Frames) -> None:
    layer = squeeze_excite(8, 2, "utterance").double()
    x, lengths = frames(), torch.tensor([12, 5])
    y = layer(Chunk.of(x, lengths)).x.clone()
    u, v = (m for m in layer.modules() if isinstance(m, Pointwise))
    for row, length in enumerate(lengths):
        mean = x[row, :, :length].mean(1)
        gate = (v.weight @ (u.weight @ mean + u.bias).relu() + v.bias).sigmoid()
        expected = x[row, :, :length] * gate[:, None]
        torch.testing.assert_close(y[row, :, :length], expected, rtol=1e-12, atol=1e-12)
    # what is not valid is not read
    x[1, :, 5:] = torch.nan
    assert torch.equal(layer(Chunk.of(x, lengths)).x[1, :, :5], y[1, :, :5])
    # at the last frame the mean so far is that of the utterance
    running = squeeze_excite(8, 2).double()
    running.load_state_dict(layer.state_dict())
    torch.testing.assert_close(running(Chunk.of(x, lengths)).x[1, :, 4], y[1, :, 4])
    with pytest.raises(StreamError, match="use context=running to stream"):
        layer.step(Chunk.of(x), layer.init_state(2, 8, torch.float64))


def test_paper_025_a_net_with_the_mean_of_the_utterance_does_not_stream(tmp_path: Path) -> None:
    config = easter2(("a", "b"), context="utterance")
    small = tuple(replace(row, channels=row.channels // 16) for row in config.blocks)
    model = sk.build(replace(config, blocks=small)).eval()
    assert model.encoder.right == math.inf
    audio = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both = model(audio, torch.tensor([16000, 9600]))
        alone = model(audio[1:, :9600])
    torch.testing.assert_close(both.scores[1, : alone.lengths[0]], alone.scores[0])
    with pytest.raises(StreamError, match="utterance"):
        sk.stream(model)
    export(model, tmp_path / "model.onnx")


def test_paper_025_dropout_rises_along_the_net() -> None:
    config = easter2()
    model = sk.build(config)
    rates = [
        {m.p for m in layer.modules() if isinstance(m, Dropout)}
        for layer in (model.stem, *model.encoder)
    ]
    assert [row.dropout or config.dropout for row, _ in config.rows()] == [
        *(0.2, 0.2, 0.2, 0.2, 0.3, 0.4, 0.4)
    ]
    # the stem, the second row, the chain of units, and the ends
    assert rates == [{0.2}, {0.2}, {0.2, 0.3}, {0.4}, {0.4}]


class HalfOld(nn.Module):
    """A merge rule that is not the sum."""

    def forward(self, old: Tensor, body: Tensor) -> Tensor:
        return old / 2 + body


@pytest.mark.parametrize("reduction", [0, 2])
def test_paper_025_units_are_the_formula(maker: Maker, frames: Frames, reduction: int) -> None:
    torch.manual_seed(0)
    blocks = [plain_block(8, 8, maker(), index, 3).double().eval() for index in range(3)]
    for block in blocks:
        block.get_submodule("sum").merge = HalfOld()
    stack = dense_easter(blocks, reduction).double().eval()
    data = old = run(blocks[0], frames())

    def part(module: nn.Module, name: str, x: Tensor) -> Tensor:
        layer = module.get_submodule(name)
        assert isinstance(layer, StreamLayer)
        return run(layer, x)

    for index, block in enumerate(blocks[1:]):
        at = f"1.units.{index}.sum"
        old = part(stack, f"{at}.shortcut.body.linear", old)
        old = part(stack, f"{at}.shortcut.body.norm", old) + part(block, "sum.shortcut", data)
        made = part(block, "sum.body", data)
        data = (old / 2 + (part(stack, f"{at}.body.excite", made) if reduction else made)).relu()
    torch.testing.assert_close(run(stack, frames()), data)


def test_paper_025_parameters_of_the_whole_model() -> None:
    model = sk.build(easter2(tuple(map(chr, range(33, 33 + 79)))))
    # the authors' layers before a batch norm have a bias each, which it takes away again
    layers = [m for m in model.modules() if isinstance(m, Pointwise | DenseConv)]
    biases = sum(len(m.weight) for m in layers if getattr(m, "bias", None) is None)
    assert sum(p.numel() for p in model.parameters()) + biases == 6_182_832
    assert model.frame_s == pytest.approx(0.04)


def test_paper_025_it_streams_through_changing_widths(maker: Maker, frames: Frames) -> None:
    ends = maker(residual=False)
    sizes = ((6, 8, maker()), (8, 4, maker()), (4, 6, maker()), (6, 8, ends), (8, 8, maker()))
    stack = dense_easter([plain_block(*size) for size in sizes]).double()
    # a block without a shortcut parts two chains
    assert [len(chain.units) for chain in stack.children() if hasattr(chain, "units")] == [2, 1]
    run(stack, frames(6))
    check_stream(stack.eval(), frames(6), torch.tensor([12, 5]))


def test_paper_025_an_activation_that_halves_the_channels(maker: Maker, frames: Frames) -> None:
    gated = maker(widening=2, activation=lambda channels: FrameWise(nn.GLU(1), channels))
    stack = dense_easter([plain_block(8, 8, gated) for _ in range(3)]).double().eval()
    assert run(stack, frames()).shape == (2, 8, 12)
    check_stream(stack, frames(), torch.tensor([12, 5]))


def focal(scores: Tensor, alpha: float = 0.25, gamma: float = 0.5) -> Tensor:
    targets, counts = torch.tensor([[0, 1, 0], [2, 2, 1]]), torch.tensor([3, 3])
    loss = FocalCTC(alpha, gamma)
    return loss(scores.log_softmax(2), torch.tensor([6, 6]), targets, counts)


def test_paper_025_focal_ctc() -> None:
    scores = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    plain = focal(scores, 1, 0)
    torch.testing.assert_close(focal(scores, 0.3, 0), 0.3 * plain)
    torch.testing.assert_close(focal(scores), 0.25 * (1 - (-plain).exp()).sqrt() * plain)
    # the first targets are sure, the second hopeless
    sure = torch.full((2, 6, 4), -50.0, dtype=torch.float64)
    sure[:, torch.arange(6), torch.tensor([0, 3, 1, 3, 0, 3])] = 50.0
    sure.requires_grad_()
    losses = focal(sure)
    losses.sum().backward()
    assert losses[0].item() == pytest.approx(0, abs=1e-12)
    assert losses[1].item() == pytest.approx(0.25 * focal(sure, 1, 0)[1].item(), rel=1e-12)
    assert sure.grad is not None
    assert sure.grad.isfinite().all()


def test_paper_025_tiles_partition_the_time_axis() -> None:
    x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    taco = Taco(min_frames=30, max_frames=30, share=0.5, probability=1, fill="max")
    y, length = taco(x, 970, torch.Generator().manual_seed(1))
    assert length == 970
    assert y.shape == x.shape
    assert torch.equal(y[:, 970:], x[:, 970:])
    corrupted = (y != x).any(0)[:970]
    tiles = corrupted.float().unfold(0, 30, 30).mean(1)
    assert set(tiles.round(decimals=1).tolist()) <= {0.0, 1.0}
    assert (y[:, :970][:, corrupted] == x[:, :970].max()).all()


@pytest.mark.parametrize("fill", ["noise", "min", "max", "mean", "any"])
def test_paper_025_the_share_of_corrupted_tiles(fill: str) -> None:
    x = torch.randn(2, 10000, generator=torch.Generator().manual_seed(0))
    taco = Taco(min_frames=10, max_frames=10, probability=1, fill=fill)
    y, _ = taco(x, 10000, torch.Generator().manual_seed(2))
    share = float((y != x).any(0).float().mean())
    # three deviations of 1000 tiles
    assert share == pytest.approx(0.2, abs=3 * (0.2 * 0.8 / 1000) ** 0.5)
    assert y.min() >= x.min()
    assert y.max() <= x.max()


def test_paper_025_it_happens_with_its_probability() -> None:
    taco, x = Taco(share=1.0), torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(3)
    happened = sum(not torch.equal(taco(x, 50, generator)[0], x) for _ in range(500))
    assert happened / 500 == pytest.approx(0.9, abs=0.04)


def test_paper_025_a_third_of_the_lines_are_longer() -> None:
    lines = [
        Utterance(audio=Path(f"{n}.wav"), duration_s=2.0 + n % 2, text="a" if n % 10 else None)
        for n in range(1000)
    ]
    concat = Concat(max_duration_s=5.0)
    generator = torch.Generator().manual_seed(0)
    found = [concat(index, lines, generator) for index in range(1000)]
    assert all(parts[0] == index for index, parts in enumerate(found))
    pairs = [parts for parts in found if len(parts) == 2]
    assert len(pairs) + sum(len(parts) == 1 for parts in found) == 1000
    assert all(index != other for index, other in pairs)
    assert all(lines[index].text and lines[other].text for index, other in pairs)
    # 400 of 2 s and 500 of 3 s have a text; two of 3 s are too long together
    share = 0.3 * (400 * 399 + 2 * 400 * 500) / (1000 * 999)
    assert len(pairs) / 1000 == pytest.approx(share, abs=3 * (share * (1 - share) / 1000) ** 0.5)
    # each other utterance may be drawn, and nothing else
    always = replace(concat, probability=1.0, max_duration_s=9.0)
    drawn = {always(1, lines[1:4], generator)[1] for _ in range(40)}
    assert drawn == {0, 2}
    assert always(0, lines[1:2], generator) == [0]


def test_paper_025_the_net_trains_on_longer_lines(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    rows = []
    for n in range(4):
        path = tmp_path / f"{n}.wav"
        soundfile.write(path, (0.1 * torch.randn(8000, generator=chance)).numpy(), 16000)
        rows.append(Utterance(audio=path, duration_s=0.5, text="ab"))
    write_manifest(tmp_path / "train.jsonl", rows)
    config = easter2(tuple(" ab"))
    small = tuple(replace(row, channels=row.channels // 16) for row in config.blocks)
    run = Run(
        model=replace(config, blocks=small),
        data=Data(train=tmp_path / "train.jsonl", dev=tmp_path / "train.jsonl", max_duration_s=1.0),
        steps=1,
        optimizer="adamw:lr=0.01",
        loss="focal_ctc",
        augment=("concat:probability=1", "taco"),
    )
    assert run_augmentations(run)[0] == Concat(max_duration_s=1.0, probability=1.0)
    assert fit(run, tmp_path / "out", device="cpu")["n"] == 4


def test_a_wrong_parameter_is_named() -> None:
    with pytest.raises(ComponentError, match="probability=2; give a number from 0 to 1"):
        Concat(max_duration_s=1.0, probability=2)
    with pytest.raises(ComponentError, match="fill='x'; give noise or min"):
        Taco(fill="x")
    with pytest.raises(ComponentError, match="tiles of 5 to 2 frames"):
        Taco(min_frames=5, max_frames=2)
    with pytest.raises(ComponentError, match="gamma=-1; give an alpha above 0"):
        FocalCTC(gamma=-1)
    with pytest.raises(
        ComponentError, match="give residual rows and block plain, identity or res2"
    ):
        dense_easter([Pointwise(4, 4)] * 3)
