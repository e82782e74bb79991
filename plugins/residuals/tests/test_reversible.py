"""Reversible stacks: they run backwards, learn as stored ones do, and store nothing."""

from collections.abc import Callable

import pytest
import torch
from speechkit_residuals.coupled import irevnet, mbconv, reversible, reversible_stack
from speechkit_residuals.memory import peak_training_bytes
from speechkit_residuals.revcol import Level, revcol
from speechkit_residuals.reversible import Reversible, ReversibleSequence
from speechkit_residuals.space_to_depth import SpaceToDepth, space_to_depth
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.infer import stream_scores
from speechkit.nn import BatchNorm, BodyMaker, Chunk, Pointwise, Serial, StreamLayer, plain_block
from speechkit.testing import check_stream

Maker = Callable[..., BodyMaker]
Frames = Callable[..., Tensor]
DESIGNS = {
    "reversible": lambda make, index: reversible(8, 8, make, index, 99),
    "reversible mbconv": lambda make, index: reversible(8, 8, make, index, 99, "mbconv", 2),
    "irevnet": lambda make, index: irevnet(8, 8, make, index, 99),
}


def sequence(
    maker: Maker, design: str, depth: int, norm: bool = True, **fields: object
) -> ReversibleSequence:
    """A stack of blocks joined into one sequence, or the columns of a stack, in float64."""
    torch.manual_seed(0)
    if design == "revcol":
        blocks = [plain_block(8, 8, maker(**fields), index, depth) for index in range(depth)]
        stack = revcol(blocks, 8, columns=depth // 2, levels=2, norm=norm)
        found = [m for m in stack.modules() if isinstance(m, ReversibleSequence)]
    else:
        stack = reversible_stack([DESIGNS[design](maker(**fields), i) for i in range(depth)])
        found = [m for m in stack.modules() if isinstance(m, ReversibleSequence)]
    (only,) = found
    return only.double()


def given(design: str, frames: Frames, dtype: torch.dtype = torch.float64) -> Chunk:
    x = frames(24 if design == "revcol" else 8).to(dtype)
    c = Chunk.of(x, torch.tensor([12, 7]))
    return Chunk(c.x.masked_fill(~c.valid[:, None], torch.nan), c.valid)


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x


EACH = pytest.mark.parametrize("design", [*DESIGNS, "revcol"])


@EACH
# a batch norm over 19 frames magnifies errors, those of evaluation do not
@pytest.mark.parametrize(("training", "error"), [(True, 1e-3), (False, 1e-5)])
def test_papers_063_084_097_the_inverse(
    maker: Maker, frames: Frames, design: str, training: bool, error: float
) -> None:
    # α = 0.5 magnifies an error by 2 in each column
    depth = 4 if design == "revcol" else 15
    layers = sequence(maker, design, depth).float()
    c = given(design, frames, torch.float32)
    layers(c)
    layers.train(training)
    with torch.no_grad():
        back = layers.inverse(layers(c))
    assert (back.masked - c.masked).abs().max() < error


def test_paper_063_the_inverse_of_thirty_blocks(maker: Maker, frames: Frames) -> None:
    layers = sequence(maker, "reversible mbconv", 30).float()
    c = given("reversible mbconv", frames, torch.float32)
    layers(c)
    with torch.no_grad():
        back = layers.eval().inverse(layers(c))
    assert (back.masked - c.masked).abs().max() < 1e-3


# in float32 the norms make the largest error 1e-3 to 3e-3, by the seed
@pytest.mark.parametrize(
    ("norm", "dtype", "error"),
    [(True, torch.float64, 1e-10), (False, torch.float64, 1e-10), (False, torch.float32, 1e-3)],
)
def test_paper_097_the_inverse_of_eight_columns_is_accurate(
    maker: Maker, frames: Frames, norm: bool, dtype: torch.dtype, error: float
) -> None:
    layers = sequence(maker, "revcol", 16, norm)
    c = given("revcol", frames)
    layers(c)
    layers.eval()
    with torch.no_grad():
        same = Chunk(c.masked.to(dtype), c.valid)
        back = layers.to(dtype).inverse(layers(same))
    assert (back.masked - same.masked).abs().max() < error


@EACH
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_papers_063_084_097_gradients_equal_the_stored_ones(
    maker: Maker, frames: Frames, design: str, dropout: float
) -> None:
    layers = sequence(maker, design, 4, repeat=2, dropout=dropout)
    found = []
    for forward in (ReversibleSequence.forward, Serial.forward):
        layers.zero_grad()
        for module in layers.modules():
            if isinstance(module, BatchNorm):
                nn.init.zeros_(module.running_mean)
                nn.init.ones_(module.running_var)
                nn.init.zeros_(module.num_batches_tracked)
        c = given(design, frames)
        x = c.masked.requires_grad_()
        torch.manual_seed(1)
        y = forward(layers, Chunk(x, c.valid))
        after_forward = {name: value.clone() for name, value in layers.named_buffers()}
        drawn = torch.get_rng_state()
        (y.masked * torch.linspace(-1, 1, 12)).sum().backward()
        assert torch.equal(torch.get_rng_state(), drawn)
        for name, value in layers.named_buffers():
            assert torch.equal(value, after_forward[name]), f"the backward pass changes {name}"
        gradients = {name: p.grad for name, p in layers.named_parameters()}
        found.append({**gradients, **after_forward, "x": x.grad, "y": y.masked.detach()})
    reversed_, stored = found
    for name, value in stored.items():
        torch.testing.assert_close(reversed_[name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_gradients_in_evaluation_and_of_frozen_parts(maker: Maker, frames: Frames) -> None:
    layers = sequence(maker, "irevnet", 3)
    layers(given("irevnet", frames))
    layers.eval()
    next(iter(layers.parameters())).requires_grad_(False)
    found = []
    for forward in (ReversibleSequence.forward, Serial.forward):
        layers.zero_grad()
        forward(layers, Chunk.of(frames())).masked.square().sum().backward()
        found.append([p.grad for p in layers.parameters()])
    assert found[0][0] is None
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_layer_used_twice_learns_from_both_places(maker: Maker, frames: Frames) -> None:
    layer = sequence(maker, "irevnet", 2)[0]
    twice = ReversibleSequence(layer, layer)
    found = []
    for forward in (ReversibleSequence.forward, Serial.forward):
        twice.zero_grad()
        forward(twice, given("irevnet", frames)).masked.square().sum().backward()
        found.append([p.grad for p in twice.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_holds_in_the_backward_pass(maker: Maker, frames: Frames) -> None:
    layers = sequence(maker, "irevnet", 2).float()
    c = given("irevnet", frames, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = layers(c)
    y.masked.square().sum().backward()
    assert y.x.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layers.parameters())


@EACH
def test_papers_063_084_097_what_training_keeps_does_not_grow(
    maker: Maker, frames: Frames, design: str
) -> None:
    kept = []
    for depth in (4, 12):
        layers = sequence(maker, design, depth)
        sizes: list[int] = []
        parameters = {p.data_ptr() for p in layers.parameters()}

        def pack(value: Tensor, sizes: list[int] = sizes, known: set[int] = parameters) -> Tensor:
            sizes.append(0 if value.data_ptr() in known else value.nbytes)
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            layers(given(design, frames))
        kept.append(sum(sizes))
    assert kept[0] == kept[1]


def test_paper_063_peak_memory_of_15_blocks_and_of_3() -> None:
    few, many = (peak_training_bytes("reversible", depth, frames=200) for depth in (3, 15))
    assert many <= 1.35 * few
    few, many = (peak_training_bytes("serial", depth, frames=200) for depth in (3, 15))
    assert many > 2 * few


def test_paper_063_couplings_are_the_formula(maker: Maker, frames: Frames) -> None:
    block = reversible(8, 8, maker(), 0, 2).double().eval()
    f, g = (m.body for m in block.modules() if isinstance(m, Reversible))
    x = frames()
    first = x[:, :4] + f(Chunk.of(x[:, 4:])).x
    second = x[:, 4:] + g(Chunk.of(first)).x
    torch.testing.assert_close(block(Chunk.of(x)).x, torch.cat([first, second], dim=1))


def test_paper_063_inverted_bottleneck(maker: Maker, frames: Frames) -> None:
    block = mbconv(8, 8, maker(), expand=6)
    names = [name for name, _ in block.get_submodule("body").named_children()]
    assert names == ["widen", "after_widen", "mixer", "norm", "after_mixer", "narrow"]
    assert sum(p.numel() for p in block.parameters()) == 2 * 48 * 8 + 3 * 48 + 2 * (48 + 48 + 8)


def test_paper_063_inverted_bottleneck_with_squeeze_and_excitation(
    maker: Maker, frames: Frames
) -> None:
    block = mbconv(6, 8, maker(), expand=2, reduction=4).double()
    body = block.get_submodule("body")
    names = [name for name, _ in body.named_children()]
    assert names == [
        "widen",
        "after_widen",
        "mixer",
        "norm",
        "after_mixer",
        "excite",
        "narrow",
    ]
    assert isinstance(body, Serial)
    x = Chunk.of(frames(6), torch.tensor([12, 5]))
    block(x)
    block.eval()
    before = x
    for layer in list(body)[:5]:
        before = layer(before)
    # at a row's last frame, the mean is that of the utterance
    squeeze, excite = (body.get_submodule(f"excite.shortcut.{n}") for n in ("squeeze", "excite"))
    mean = before.masked.sum(2) / torch.tensor([12, 5])[:, None]
    hidden = (mean @ squeeze.weight.t() + squeeze.bias).relu()  # type: ignore[operator,union-attr]
    gate = (hidden @ excite.weight.t() + excite.bias).sigmoid()  # type: ignore[operator,union-attr]
    got = body.get_submodule("excite")(before).x
    for row, last in enumerate((11, 4)):
        torch.testing.assert_close(got[row, :, last], gate[row] * before.x[row, :, last])
    check_stream(block, frames(6), torch.tensor([12, 5]))


def test_paper_084_space_to_depth_loses_nothing(frames: Frames) -> None:
    x = frames(3)
    for stride in (1, 2, 3):
        layer = SpaceToDepth(stride)
        y = layer(Chunk.of(x)).x
        assert y.shape == (2, 3 * stride, 12 // stride)
        assert torch.equal(layer.inverse(y), x)
    assert SpaceToDepth(2)(Chunk.of(torch.arange(6.0).view(1, 2, 3))).x.tolist() == [
        [[0, 2], [3, 5], [1, 0], [4, 0]]
    ]


def test_paper_084_a_net_of_it_gives_its_features_back(maker: Maker, frames: Frames) -> None:
    stem = space_to_depth(4, 8, maker(stride=2, residual=False))
    layers = sequence(maker, "irevnet", 15)
    x = frames(4, count=24).float()
    c = Chunk.of(x)
    layers.float()(stem(c))
    with torch.no_grad():
        back = layers.eval().inverse(layers(stem(c)))
    fold = stem.get_submodule("fold")
    assert isinstance(fold, SpaceToDepth)
    assert (fold.inverse(back.x) - x).abs().max() < 1e-5


def test_paper_084_the_stem_streams(maker: Maker, frames: Frames) -> None:
    for c_out in (12, 8):
        stem = space_to_depth(6, c_out, maker(stride=2, residual=False)).double()
        assert stem.channels_out(6) == c_out
        assert len(list(stem.parameters())) == (c_out != 12)
        check_stream(stem, frames(6, count=13), torch.tensor([13, 5]))


def test_paper_084_the_first_block_begins_with_a_convolution(maker: Maker) -> None:
    sizes = [
        sum(isinstance(m, BatchNorm) for m in irevnet(8, 8, maker(), index, 9).modules())
        for index in (0, 1)
    ]
    assert sizes == [2, 3]


def strided(maker: Maker, **fields: object) -> ReversibleSequence:
    """i-RevNet's blocks at three frame rates, as one sequence in float64."""
    torch.manual_seed(0)
    plan = [(8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 48, 3)]
    blocks = [
        irevnet(c_in, c_out, maker(stride=stride, **fields), index, 99)
        for index, (c_in, c_out, stride) in enumerate(plan)
    ]
    (only,) = reversible_stack(blocks)
    assert isinstance(only, ReversibleSequence)
    return only.double()


def test_paper_084_a_stride_is_the_formula(maker: Maker, frames: Frames) -> None:
    block = irevnet(8, 16, maker(stride=2), 1, 99).double().eval()
    (coupling,) = (m for m in block.modules() if isinstance(m, Reversible))
    x = frames(count=11)
    x_1, x_2 = torch.cat([x, x.new_zeros(2, 8, 1)], dim=2).chunk(2, 1)

    def psi(half: Tensor) -> Tensor:
        return torch.cat([half[:, :, ::2], half[:, :, 1::2]], dim=1)

    made = coupling.body(Chunk.of(x_2)).x
    assert made.shape == (2, 8, 6)
    y = block(Chunk.of(x))
    torch.testing.assert_close(y.x, torch.cat([psi(x_2), psi(x_1) + made], dim=1))
    assert (block.stride, block.channels_out(8)) == (2, 16)


def test_paper_084_strides_are_inverted(maker: Maker, frames: Frames) -> None:
    layers = strided(maker).float()
    c = Chunk.of(frames(count=36).float(), torch.tensor([36, 18]))
    layers(c)
    layers.eval()
    with torch.no_grad():
        y = layers(c)
        back = layers.inverse(y)
    assert y.x.shape == (2, 48, 6)
    assert torch.equal(back.valid, c.valid)
    assert (back.masked - c.masked).abs().max() < 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_paper_084_gradients_through_strides_equal_the_stored_ones(
    maker: Maker, frames: Frames, dropout: float
) -> None:
    layers = strided(maker, dropout=dropout).train()
    found = []
    for forward in (ReversibleSequence.forward, Serial.forward):
        layers.zero_grad()
        c = Chunk.of(frames(count=17), torch.tensor([17, 8]))
        x = c.masked.requires_grad_()
        torch.manual_seed(1)
        y = forward(layers, Chunk(x, c.valid))
        (y.masked * torch.linspace(-1, 1, y.x.shape[2])).sum().backward()
        found.append([x.grad, y.masked.detach(), *(p.grad for p in layers.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_paper_084_strides_stream(maker: Maker, frames: Frames) -> None:
    layers = strided(maker)
    layers(Chunk.of(frames()))
    check_stream(layers.eval(), frames(count=36), torch.tensor([36, 17]))


def test_paper_084_a_net_with_a_strided_row_streams() -> None:
    rows = (
        sk.Block(channels=16, kernel=3),
        sk.Block(channels=16, kernel=3, residual=True),
        sk.Block(channels=32, kernel=3, stride=2, block="irevnet"),
        sk.Block(channels=32, kernel=3, residual=True),
    )
    net = sk.QuartzNet(
        labels=("a", "b"),
        blocks=rows,
        block="irevnet",
        stack="reversible",
        frontend="log_mel:n_mels=16,normalize=fixed",
    )
    model = sk.build(net).eval()
    sequence = next(m for m in model.modules() if isinstance(m, ReversibleSequence))
    assert len(sequence) == 3
    audio = 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        offline = model(audio).scores[0]
    streamed = torch.cat(list(stream_scores(model, audio[0], chunk_s=0.05)))
    torch.testing.assert_close(streamed, offline, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("mult", "inner"), [(4, 8), (2, 16), (64, 1)])
def test_paper_084_the_width_within_is_a_part_of_a_half(
    maker: Maker, mult: int, inner: int
) -> None:
    block = irevnet(64, 64, maker(), 1, 9, mult)
    shapes = [m.weight.shape for m in block.modules() if isinstance(m, Pointwise)]
    assert shapes == [(inner, 32), (inner, inner), (32, inner)]


def test_a_stack_takes_other_blocks_as_they_are(maker: Maker, frames: Frames) -> None:
    blocks = [
        reversible(6, 8, maker(), 0, 9),
        irevnet(8, 8, maker(), 1, 9),
        plain_block(8, 8, maker()),
        irevnet(8, 8, maker(), 2, 3),
    ]
    stack = reversible_stack(blocks).double()
    assert isinstance(stack, Serial)
    lengths = [len(m) for m in stack if isinstance(m, ReversibleSequence)]
    assert lengths == [3, 1]
    x = Chunk.of(frames(6))
    assert torch.equal(stack.eval()(x).x, Serial(*blocks).eval()(x).x)
    check_stream(stack, frames(6), torch.tensor([12, 5]))


def test_a_stack_with_nothing_to_join_is_refused(maker: Maker) -> None:
    alone = [reversible(8, 8, maker(), 0, 9), plain_block(8, 8, maker())]
    for blocks in ([], alone, alone[1:] * 2):
        with pytest.raises(ComponentError, match="no two reversible blocks are adjacent; give"):
            reversible_stack(blocks)


def test_a_wrong_parameter_is_named(maker: Maker) -> None:
    with pytest.raises(ComponentError, match="7 channels; give an even number"):
        reversible(7, 7, maker())
    with pytest.raises(ComponentError, match="body='x'; give plain or mbconv"):
        reversible(8, 8, maker(), body="x")
    with pytest.raises(ComponentError, match="stride 2; give 1, or irevnet"):
        reversible(8, 8, maker(stride=2))
    with pytest.raises(ComponentError, match="10 channels with stride 2; give a multiple of 4"):
        irevnet(8, 10, maker(stride=2))
    with pytest.raises(ComponentError, match="reduction=-1; give at least 1, or 0"):
        mbconv(8, 8, maker(), reduction=-1)
    with pytest.raises(ComponentError, match="levels=0"):
        revcol([], 8, levels=0)
    strided: StreamLayer = maker(stride=2)(8, 8)
    with pytest.raises(ComponentError, match="a body of stride 2 cannot be reversed"):
        Level(strided, 8, [8, 8], 0, True, 0.1, True)
