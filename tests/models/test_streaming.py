"""Every net, with every look-ahead, streams what it computes offline: from audio to scores."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import speechkit as sk
from speechkit.models import Model, Net
from speechkit.nn import Chunk, Serial
from speechkit.testing import assert_close, check_stream, dyadic_

SMALL = (
    sk.Block(channels=16, kernel=11, stride=2),
    sk.Block(channels=16, kernel=13, repeat=2, residual=True, copies=2),
    sk.Block(channels=24, kernel=15, repeat=2, residual=True),
    sk.Block(channels=16, kernel=9, dilation=2),
    sk.Block(channels=32, kernel=1, separable=False),
)
LOOKAHEADS = ["same", 0, 3, (4, "same", 1, 0, 2, 0)]
NETS = [
    sk.QuartzNet(blocks=SMALL, frontend="log_mel:normalize=running"),
    sk.MatchboxNet(size="3x1x64", labels=("a", "b", "c")),
    sk.MarbleNet(),
    sk.MarbleNet(frame_level=True),
]


def with_lookahead(config: Net, lookahead: object) -> Net:
    return replace(config, lookahead=lookahead)


def lively_(model: Model) -> Model:
    """Weights and statistics that let nothing vanish or cancel."""
    generator = torch.Generator().manual_seed(7)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif name.endswith(("running_mean", "bias")):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return model.eval()


@pytest.mark.parametrize("lookahead", LOOKAHEADS, ids=str)
@pytest.mark.parametrize("config", NETS, ids=lambda c: f"{c.kind}-{c.task}")
def test_features_to_scores(config: Net, lookahead: object) -> None:
    model = lively_(sk.build(with_lookahead(config, lookahead))).double()
    net = Serial(*list(model.stream_layer())[1:])
    features = model.frontend.channels_out(1)
    x = torch.randn(
        3, features, 91, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    check_stream(net, x, torch.tensor([91, 90, 23]), chunks=(1, 2, 7, 50))


@pytest.mark.parametrize("lookahead", LOOKAHEADS, ids=str)
@pytest.mark.parametrize("config", NETS, ids=lambda c: f"{c.kind}-{c.task}")
def test_dyadic_nets_stream_to_the_same_bits(config: Net, lookahead: object) -> None:
    model = dyadic_(sk.build(with_lookahead(config, lookahead))).eval()
    assert isinstance(model, Model)
    net = Serial(model.stem, model.encoder)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (2, model.frontend.channels_out(1), 91), generator=generator).float()
    check_stream(net, x, torch.tensor([91, 60]), chunks=(1, 3, 50), rtol=0)
    assert net(Chunk.of(x)).x.abs().max() > 1


@pytest.mark.parametrize("config", NETS, ids=lambda c: f"{c.kind}-{c.task}")
def test_audio_to_scores(config: Net) -> None:
    model = lively_(sk.build(with_lookahead(config, 2))).double()
    x = (
        torch.randn(2, 1, 9000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        * 0.1
    )
    check_stream(model.stream_layer(), x, torch.tensor([9000, 6500]), chunks=(1, 3, 20), rtol=1e-11)


def test_quartznet_5x5_with_half_a_minute_of_context() -> None:
    model = lively_(sk.build(sk.QuartzNet(size="5x5"))).double()
    net = Serial(model.stem, model.encoder)
    x = torch.randn(1, 64, 41, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_stream(net, x, chunks=(50,))


@pytest.mark.slow
@pytest.mark.parametrize("lookahead", ["same", 0, 3])
def test_quartznet_5x5_in_all_chunk_sizes(lookahead: object) -> None:
    model = lively_(sk.build(sk.QuartzNet(size="5x5", lookahead=lookahead))).double()  # type: ignore[arg-type]
    net = Serial(model.stem, model.encoder)
    x = torch.randn(2, 64, 101, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    check_stream(net, x, torch.tensor([101, 60]), chunks=(2, 8, [1, 3, 50], 50))
    dyadic_(net)
    check_stream(net.float(), x.float().round(), torch.tensor([101, 60]), chunks=(8, 50), rtol=0)


def test_padding_changes_nothing() -> None:
    model = lively_(sk.build(sk.QuartzNet(blocks=SMALL))).double()
    audio = torch.randn(2, 16000, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        alone = model(audio[:1, :9000], torch.tensor([9000]))
        together = model(audio, torch.tensor([9000, 16000]))
    frames = int(alone.lengths)
    assert together.lengths[0] == frames
    assert_close("scores", alone.scores[0, :frames], together.scores[0, :frames], 1e-12)


class CountCopies(TorchDispatchMode):
    """Notes every operation that rewrites a tensor in another memory order."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("clone", "copy_", "_to_copy", "contiguous", "empty_strided"):
            given = next(
                (a for a in args if isinstance(a, Tensor) and a.ndim == 3 and min(a.shape[1:]) > 1),
                None,
            )
            if given is not None and isinstance(out, Tensor) and given.stride() != out.stride():
                self.copies.append(f"{name} {given.stride()} -> {out.stride()}")
        return out


@pytest.mark.parametrize("config", NETS, ids=lambda c: f"{c.kind}-{c.task}")
def test_no_layer_copies_into_another_layout(config: Net) -> None:
    model = sk.build(config).eval()
    outputs: list[tuple[str, Tensor]] = []
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _, __, out, name=name: outputs.append((name, getattr(out, "x", out)))
        )
    with torch.no_grad(), CountCopies() as watch:
        model.score(model.features(torch.randn(2, 16000) * 0.1, torch.tensor([16000, 9000])))
    assert watch.copies == []
    layers = [
        (n, y) for n, y in outputs if isinstance(y, Tensor) and y.ndim == 3 and y.shape[2] > 1
    ]
    assert len(layers) > 30
    strays = [n for n, y in layers if y.shape[1] > 1 and y.stride()[1:] != (1, y.shape[1])]
    assert strays == []


def test_latency_is_the_delay_in_seconds() -> None:
    model = sk.build(sk.QuartzNet(size="15x5", lookahead=1, frontend="log_mel:normalize=running"))
    assert model.latency_s == pytest.approx(1.52)
    assert model.frame_s == pytest.approx(0.02)
