"""Dense recurrent layers, and mixture of depths."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from speechkit_residuals.dense_rnn import Dense, dense_rnn
from speechkit_residuals.mod import Routed, RouterLoss, effective_rank, mod
from torch import Tensor, nn

import speechkit as sk
from speechkit.data import Batch, Utterance
from speechkit.errors import ComponentError, StreamError, TrainingError
from speechkit.export import export
from speechkit.models import Block, Model, Output
from speechkit.nn import BodyMaker, Chunk, Rnn, Serial, StreamLayer, Taps
from speechkit.probes import Examples, probe
from speechkit.tasks import task_of
from speechkit.testing import assert_close

Maker = Callable[..., BodyMaker]
Frames = Callable[..., Tensor]


def run(layer: StreamLayer, x: Tensor) -> Tensor:
    y: Chunk = layer(Chunk.of(x))
    return y.x


def test_paper_112_widths(maker: Maker) -> None:
    block = dense_rnn(64, 200, maker(), layers=15, hidden=13, bidirectional=True)
    dense = block.get_submodule("layers")
    assert isinstance(dense, Dense)
    assert dense.calls()[-1].get_parameter("weights.0").shape == (4 * 100, 428)
    assert block.channels_out(64) == 200


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_paper_112_a_layer_is_torch_s(frames: Frames, cell: str, bidirectional: bool) -> None:
    layer = Rnn(8, 5, cell, bidirectional).double()
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
    known = kind(8, 5, batch_first=True, bidirectional=bidirectional).double()
    for mine, other in zip(layer.weights, known.parameters(), strict=True):
        other.data.copy_(mine.data)
    x = frames()
    # a row of 7 frames ends there, so that the way back starts there
    got = layer(
        Chunk(
            x.clone().index_fill_(2, torch.arange(7, 12), torch.nan)[1:], torch.arange(12)[None] < 7
        )
    )
    assert_close(
        cell, known(x[1:, :, :7].transpose(1, 2))[0].transpose(1, 2), got.x[:, :, :7], 1e-12
    )
    assert_close(cell, known(x.transpose(1, 2))[0].transpose(1, 2), run(layer, x), 1e-12)


def test_paper_112_one_layer_is_a_plain_one(maker: Maker, frames: Frames) -> None:
    block = dense_rnn(8, 6, maker(), layers=1, bidirectional=True).double()
    (rnn,) = (m for m in block.modules() if isinstance(m, Rnn))
    known = nn.LSTM(8, 3, batch_first=True, bidirectional=True).double()
    for mine, other in zip(rnn.weights, known.parameters(), strict=True):
        other.data.copy_(mine.data)
    expected = known(frames().transpose(1, 2))[0].transpose(1, 2)
    assert_close("Bi-LSTM", expected, run(block, frames()), 1e-12)
    assert size(block) == size(known)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_paper_112_dense_gradients_reach_the_input(maker: Maker, frames: Frames) -> None:
    torch.manual_seed(0)
    norms = []
    dense = dense_rnn(13, 13, maker(), layers=20, hidden=13).double()
    stacked = Serial(*(Rnn(13, 13) for _ in range(20))).double()
    for layer in (dense, stacked):
        x = frames(13).requires_grad_()
        (gradient,) = torch.autograd.grad(run(layer, x).sum(), x)
        norms.append(float(gradient.norm()))
    assert norms[0] > 1e4 * norms[1]


def test_paper_112_two_directions_do_not_stream(maker: Maker, frames: Frames) -> None:
    block = dense_rnn(8, 8, maker(), bidirectional=True).double()
    with pytest.raises(StreamError, match="use bidirectional=false to stream"):
        block.step(Chunk.of(frames()), block.init_state(2, 8, torch.float64))
    with pytest.raises(ComponentError, match="an even number of channels"):
        dense_rnn(8, 7, maker(), bidirectional=True)


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_paper_112_a_net_is_exported_to_onnx(
    cell: str, bidirectional: bool, tmp_path: Path
) -> None:
    """`export` compares ragged rows, other lengths and, in blocks, frames before the first one."""
    block = f"dense_rnn:layers=2,hidden=3,cell={cell},bidirectional={str(bidirectional).lower()}"
    rows = (
        Block(channels=8, kernel=5, stride=2),
        Block(channels=8, kernel=5, residual=True, block=block),
        Block(channels=8, kernel=3),
    )
    config = sk.QuartzNet(labels=("a",), blocks=rows, frontend="log_mel:n_mels=8,normalize=fixed")
    model = sk.build(config).eval()
    forms = (f"onnx:features=false,streaming={form}" for form in ("false", "true"))
    for form in list(forms)[: 1 if bidirectional else 2]:
        made = export(model, tmp_path / "model.onnx", form)
        assert made.difference is not None
        assert made.difference < 1e-5


def routed(maker: Maker, **fields: object) -> tuple[Serial, Routed]:
    torch.manual_seed(0)
    block = mod(8, 8, maker(), **fields).double()  # type: ignore[arg-type]
    run(block, torch.randn(2, 8, 12).double())
    assert isinstance(block, Serial)
    part = block[1]
    assert isinstance(part, Routed)
    return block.eval(), part


def test_paper_102_with_every_frame_through_it_is_dense(maker: Maker, frames: Frames) -> None:
    for fields in ({"threshold": 0.0}, {"mode": "topk", "capacity": 1.0}):
        _, part = routed(maker, **fields)
        x = Chunk.of(frames())
        normal = part.norm(x)
        p = part.logits(normal).softmax(2)[:, None, :, 1]
        torch.testing.assert_close(part(x).x, x.x + p * part.feed_forward(normal).x)


def test_paper_102_with_p_of_one_nothing_is_scaled(
    maker: Maker, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, part = routed(maker, capacity=1.0)
    sure = torch.tensor([-500.0, 500.0], dtype=torch.float64)
    monkeypatch.setattr(part, "logits", lambda normal: sure.expand(2, 12, 2))
    x = Chunk.of(frames())
    dense = x.x + part.feed_forward(part.norm(x)).x
    torch.testing.assert_close(part(x).x, dense, rtol=1e-14, atol=1e-14)
    # in training all frames go through the same products
    part.norm.train(False)
    part.training = True
    assert torch.equal(part(x).x, dense)


@pytest.mark.parametrize("mode", ["threshold", "topk"])
def test_paper_102_the_others_pass_as_they_are(maker: Maker, frames: Frames, mode: str) -> None:
    _, part = routed(maker, mode=mode, capacity=0.3)
    x = Chunk.of(frames(), torch.tensor([12, 5]))
    y = part(x)
    through = part.through(part.logits(part.norm(x)).softmax(2)[:, :, 1], x.valid)
    assert torch.equal((y.x != x.x).any(1), through)
    assert 0 < through.sum() < 17
    if mode == "topk":
        assert through.sum(1).tolist() == [4, 2]


def test_paper_102_training_with_topk_routes_as_evaluation_does(
    maker: Maker, frames: Frames
) -> None:
    _, part = routed(maker, mode="topk")
    x = Chunk.of(frames())
    part.norm.train(False)
    part.training = True
    learned = part(x).x
    part.training = False
    torch.testing.assert_close(learned, part(x).x)


def test_paper_102_training_selects_the_capacity_and_evaluation_by_threshold(
    maker: Maker, frames: Frames
) -> None:
    _, part = routed(maker, capacity=0.3)
    x = Chunk.of(frames(), torch.tensor([12, 5]))
    p = part.logits(part.norm(x)).softmax(2)[:, :, 1]
    part.training = True
    most = part.through(p, x.valid)
    assert most.sum(1).tolist() == [4, 2]
    assert p[0][most[0]].min() > p[0][~most[0]].max()
    part.training = False
    assert torch.equal(part.through(p, x.valid), (p > 0.5) & x.valid)


def selected(model: Model, audio: Tensor) -> list[float]:
    """The share of frames that each router of a model selects in evaluation."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, Routed)}
    with Taps({name: layer.norm for name, layer in layers.items()}) as taps, torch.no_grad():
        model.eval()(audio)
    shares = []
    for name, _, _, normal in taps.take():
        p = layers[name].logits(normal).softmax(2)[:, :, 1]
        shares.append(float(layers[name].through(p, normal.valid)[normal.valid].float().mean()))
    return shares


@pytest.mark.parametrize("capacity", [0.25, 0.5])
def test_paper_102_the_threshold_selects_the_capacity_once_trained(capacity: float) -> None:
    rows = (
        Block(channels=8, kernel=5, stride=2),
        Block(channels=8, kernel=5, residual=True, copies=2),
    )
    frontend, block = "log_mel:n_mels=16,normalize=fixed", f"mod:expand=2,capacity={capacity}"
    model = sk.build(sk.QuartzNet(labels=("a",), blocks=rows, block=block, frontend=frontend))
    audio = 0.1 * torch.randn(4, 8000, generator=torch.Generator().manual_seed(0))
    routers = [m.router.weight for m in model.modules() if isinstance(m, Routed)]
    model.train()(audio)
    before = selected(model, audio)
    method = RouterLoss(weight=1.0)
    method.start(model, None)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(routers, lr=0.05)
    for _ in range(80):
        loss = method.extra_loss(None, model.train()(audio)).sum()  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.taps.remove()
    after = selected(model, audio)
    assert after == pytest.approx([capacity] * 2, abs=0.08)
    assert max(abs(share - capacity) for share in before) > 0.1


def test_paper_102_topk_does_not_stream(maker: Maker, frames: Frames) -> None:
    block, _ = routed(maker, mode="topk")
    with pytest.raises(StreamError, match="use mode=threshold to stream"):
        block.step(Chunk.of(frames()), block.init_state(2, 8, torch.float64))
    with pytest.raises(ComponentError, match=r"threshold=2, capacity=0\.5"):
        routed(maker, threshold=2)


def test_paper_102_effective_rank() -> None:
    assert effective_rank(torch.eye(30)) == pytest.approx(30)
    assert effective_rank(torch.ones(30, 30)) == pytest.approx(1)


@pytest.fixture
def routed_net() -> Model:
    torch.manual_seed(0)
    rows = (
        Block(channels=8, kernel=5, stride=2),
        Block(channels=8, kernel=5, residual=True, copies=2),
    )
    frontend = "log_mel:n_mels=16,normalize=fixed"
    return sk.build(sk.QuartzNet(labels=("a",), blocks=rows, block="mod", frontend=frontend))


def test_paper_102_the_probe_finds_the_rank_of_all_frames(
    routed_net: Model, tmp_path: Path
) -> None:
    chance = torch.Generator().manual_seed(0)
    for count in (4000, 3000, 2500):
        sound = 0.1 * torch.randn(count, generator=chance)
        soundfile.write(tmp_path / f"{count}.wav", sound.numpy(), 16000)
    utterances = [
        Utterance(audio=path, duration_s=soundfile.info(path).duration)
        for path in sorted(tmp_path.glob("*.wav"))
    ]
    examples = Examples(routed_net.eval(), utterances, batch_size=2)
    ranks = probe(routed_net, ["arank"], examples)["arank"]
    assert list(ranks) == ["0", "1"]
    for name, rank in ranks.items():
        rows = []
        for _, features in examples:
            with Taps({name: routed_net.encoder.get_submodule(name)}) as taps, torch.no_grad():
                routed_net.score(features)
            ((_, _, (c,), made),) = taps.take()
            rows.append((made.x - c.x).transpose(1, 2)[made.valid])
        assert rank == pytest.approx(effective_rank(torch.cat(rows)).item(), rel=1e-9)
        assert 1 <= rank <= 8


def test_paper_102_the_method_watches_a_model(routed_net: Model) -> None:
    audio = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    model, method = routed_net, RouterLoss()
    method.start(model, None)  # type: ignore[arg-type]
    output = model.train()(audio)
    # the averaged copy is not recorded
    copy.deepcopy(model)(audio)
    assert len(method.taps._calls) == 2
    loss = method.extra_loss(None, Output(*output))  # type: ignore[arg-type]
    assert loss.shape == (2,)
    loss.sum().backward()
    routers = [m.router.weight.grad for m in model.modules() if isinstance(m, Routed)]
    assert all(gradient is not None and gradient.any() for gradient in routers)


@pytest.mark.parametrize(
    ("config", "routers"),
    [
        (sk.QuartzNet(size="5x5", block="mod", stack="shared_router"), 2),
        (sk.MatchboxNet(labels=("a", "b"), size="3x1x64", block="mod", stack="shared_router"), 1),
        (sk.MarbleNet(size="3x2x64", block="mod", stack="shared_router"), 1),
    ],
)
def test_paper_102_blocks_of_one_width_share_a_router(
    config: sk.QuartzNet | sk.MatchboxNet | sk.MarbleNet, routers: int, tmp_path: Path
) -> None:
    model = sk.build(config)
    layers = [m for m in model.modules() if isinstance(m, Routed)]
    assert len(layers) == (5 if routers == 2 else 3)
    assert len({id(layer.router.weight) for layer in layers}) == routers
    with torch.no_grad():
        layers[-1].router.weight.fill_(0.5)
    sk.save(model, tmp_path / "model")
    again = [m for m in sk.load(tmp_path / "model").modules() if isinstance(m, Routed)]
    assert len({id(layer.router.weight) for layer in again}) == routers
    assert all(map(torch.equal, *([m.router.weight for m in ls] for ls in (layers, again))))
    with pytest.raises(ComponentError, match="no two blocks mod of one width"):
        sk.build(dataclasses.replace(config, block="plain"))


@pytest.mark.parametrize("keep_speech", [False, True])
def test_paper_102_labelled_speech_is_kept(keep_speech: bool) -> None:
    rows = (
        Block(channels=8, kernel=5),
        Block(channels=8, kernel=5, residual=True),
    )
    block = "mod:expand=2,capacity=0.3"
    model = sk.build(sk.MarbleNet(blocks=rows, block=block, lookahead=0, head="frame"))
    chance = torch.Generator().manual_seed(0)
    # speech is the quieter part, which the router does not select by itself
    audio = 0.3 * torch.randn(4, 16000, generator=chance)
    audio[:, 4000:8000] *= 0.01
    targets = (torch.tensor([[0.25, 0.5]], dtype=torch.float64),) * 4
    batch = Batch(audio, torch.full((4,), 16000), targets, None, list(range(4)), ["a"] * 4)
    (layer,) = (m for m in model.modules() if isinstance(m, Routed))
    with torch.no_grad():
        for _ in range(30):
            model.train()(audio)
        normal = tapped(model, layer, audio)
        quiet = task_of(model).targets(batch, model(audio))[0] == 1
        # the router starts with a preference for the loud part
        loud = normal.x.transpose(1, 2)[~quiet].mean(0) - normal.x.transpose(1, 2)[quiet].mean(0)
        layer.router.weight.copy_(torch.stack([-loud, loud]))
    method = RouterLoss(weight=1.0, keep_speech=keep_speech)
    method.start(model, None)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(layer.router.parameters(), lr=0.1)
    for _ in range(80):
        loss = method.extra_loss(batch, model.train()(audio)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.taps.remove()
    p = layer.logits(tapped(model, layer, audio)).softmax(2)[:, :, 1]
    share = (p > layer.threshold)[quiet].float().mean()
    assert share > 0.9 if keep_speech else share < 0.5


def tapped(model: Model, layer: Routed, audio: Tensor) -> Chunk:
    """What a router reads in evaluation."""
    with Taps({"norm": layer.norm}) as taps, torch.no_grad():
        model.eval()(audio)
    ((*_, normal),) = taps.take()
    assert isinstance(normal, Chunk)
    return normal


def test_paper_102_only_detection_has_labelled_speech(routed_net: Model) -> None:
    with pytest.raises(TrainingError, match="needs speech labelled in frames; train a MarbleNet"):
        RouterLoss(keep_speech=True).start(routed_net, None)  # type: ignore[arg-type]
