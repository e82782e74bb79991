"""Parameter counts, receptive fields and outputs that NeMo 1.23 gives for the same weights."""

import math
from dataclasses import replace

import pytest
import torch

import speechkit as sk
from speechkit.models import Model, Net
from speechkit.nn import Chunk, Serial

CLASSES = {n: tuple(map(str, range(n))) for n in (2, 12, 30, 35)}
NEMO_POOL = "clip:pool=average:nemo_compat=true"


@pytest.mark.parametrize(
    ("size", "parameters"), [("5x5", 6_713_181), ("10x5", 12_818_781), ("15x5", 18_924_381)]
)
def test_quartznet_has_the_papers_parameters(size: str, parameters: int) -> None:
    assert count(sk.build(sk.QuartzNet(size=size))) == parameters


@pytest.mark.parametrize(
    ("size", "two", "twelve", "thirty", "thirty_five"),
    [
        ("3x1x64", 73_602, 74_892, 77_214, 77_859),
        ("3x2x64", 89_154, 90_444, 92_766, 93_411),
        ("3x1x112", 129_330, 130_620, 132_942, 133_587),
        ("3x2x112", 172_674, 173_964, 176_286, 176_931),
        ("6x1x64", 102_978, 104_268, 106_590, 107_235),
        ("6x2x64", 135_234, 136_524, 138_846, 139_491),
    ],
)
def test_matchboxnet_has_the_papers_parameters(
    size: str, two: int, twelve: int, thirty: int, thirty_five: int
) -> None:
    counts = [
        count(sk.build(sk.MatchboxNet(size=size, labels=labels))) for labels in CLASSES.values()
    ]
    assert counts == [two, twelve, thirty, thirty_five]


def test_marblenet_has_the_papers_parameters() -> None:
    assert count(sk.build(sk.MarbleNet())) == 89_154
    assert count(sk.build(sk.MarbleNet(frame_level=True))) == 91_378


@pytest.mark.parametrize(
    ("config", "frames"),
    [
        (sk.QuartzNet(size="5x5"), 1468),
        (sk.QuartzNet(size="10x5"), 2748),
        (sk.QuartzNet(size="15x5"), 4028),
        (sk.MatchboxNet(size="3x1x64", labels=("a",)), 54),
        (sk.MatchboxNet(size="3x2x64", labels=("a",)), 75),
        (sk.MatchboxNet(size="6x2x64", labels=("a",)), 135),
        (sk.MarbleNet(frame_level=True), 145),
    ],
)
def test_symmetric_nets_look_as_far_ahead_as_back(config: Net, frames: int) -> None:
    model = sk.build(config)
    body = Serial(model.stem, model.encoder)
    assert (body.left, body.right) == (frames, frames)


@pytest.mark.parametrize(
    ("config", "delay_s"),
    [
        (sk.QuartzNet(size="15x5"), 40.28),
        (sk.QuartzNet(size="5x5"), 14.68),
        (sk.QuartzNet(size="15x5", lookahead=1), 1.52),
        (sk.QuartzNet(size="15x5", lookahead=0), 0.0),
        (sk.MarbleNet(), 0.75),
    ],
)
def test_delay_of_the_built_net(config: Net, delay_s: float) -> None:
    model = sk.build(config)
    body = Serial(model.stem, model.encoder)
    assert body.delay * body.stride * 0.01 == pytest.approx(delay_s)


@pytest.mark.parametrize(
    ("config", "frames", "lengths", "out_lengths", "mean", "total", "first", "last"),
    [
        (
            sk.QuartzNet(size="5x5"),
            80,
            [80, 50],
            [40, 25],
            0.212152830,
            -8915.131979504,
            [-4.129900330, -2.428781136, -4.751909585, -4.909052921],
            [-4.814091530, -3.252079791, -2.916249728],
        ),
        (
            sk.QuartzNet(size="15x5"),
            80,
            [80, 50],
            [40, 25],
            0.265697523,
            -9059.784867797,
            [-3.826751180, -2.377325777, -5.031319304, -4.904939486],
            [-4.862268599, -3.243597079, -2.852507871],
        ),
        (
            sk.MatchboxNet(size="3x1x64", labels=CLASSES[35]),
            128,
            [128, 128],
            [128, 128],
            0.118147935,
            0.157377457,
            [-0.189653931, -0.004217893, -0.046532154, -0.238807845],
            [0.373431213, -0.384879869, 0.386327579],
        ),
        (
            sk.MarbleNet(head=NEMO_POOL),
            64,
            [64, 40],
            [64, 40],
            0.149692950,
            0.178106962,
            [0.173524441, -0.086932885, 0.086575852, 0.004939555],
            [-0.086932885, 0.086575852, 0.004939555],
        ),
        (
            sk.MarbleNet(frame_level=True),
            64,
            [64, 41],
            [32, 21],
            0.166161881,
            5.671166200,
            [0.123796118, -0.033384511, 0.118274084, -0.028015066],
            [0.099883176, -0.003772579, 0.099883176],
        ),
    ],
    ids=["quartznet-5x5", "quartznet-15x5", "matchboxnet-3x1x64", "marblenet", "marblenet-frames"],
)
def test_outputs_equal_nemo(
    config: Net,
    frames: int,
    lengths: list[int],
    out_lengths: list[int],
    mean: float,
    total: float,
    first: list[float],
    last: list[float],
) -> None:
    model = golden_(sk.build(config).double().eval())
    features = model.frontend.channels_out(1)
    b = torch.arange(2, dtype=torch.float64)[:, None, None]
    t = torch.arange(frames, dtype=torch.float64)[None, :, None]
    c = torch.arange(features, dtype=torch.float64)
    x = torch.sin(0.11 * t + 0.7 * c + 0.5 * b).transpose(1, 2)
    with torch.no_grad():
        encoded = model.encoder(model.stem(Chunk.of(x, torch.tensor(lengths))))
        scores = model.head(encoded).x.transpose(1, 2)
    assert encoded.lengths.tolist() == out_lengths
    assert encoded.x.mean().item() == pytest.approx(mean, abs=1e-8)
    assert scores.sum().item() == pytest.approx(total, abs=1e-8)
    assert scores.flatten()[:4].tolist() == pytest.approx(first, abs=1e-8)
    assert scores.flatten()[-3:].tolist() == pytest.approx(last, abs=1e-8)


def test_explicit_blocks_are_the_named_size() -> None:
    named = sk.QuartzNet(size="5x5")
    assert replace(named, blocks=named.blocks) == named
    assert sk.QuartzNet(blocks=named.blocks[:2]).size == "custom"
    assert sk.QuartzNet() == sk.QuartzNet(size="15x5")


def test_a_size_and_other_blocks_are_refused() -> None:
    with pytest.raises(sk.errors.ConfigError, match=r"set blocks=\[\] to take the size's"):
        replace(sk.QuartzNet(size="5x5"), size="15x5")
    with pytest.raises(sk.errors.ConfigError, match="no such size"):
        sk.MatchboxNet(size="3x1", labels=("a",))


def count(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def golden_(model: Model) -> Model:
    """The deterministic weights of the golden values, tensor by tensor in state-dict order."""
    tensors = [
        (name, value)
        for part in (model.stem, model.encoder, model.head)
        for name, value in part.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
    for k, (name, value) in enumerate(tensors):
        i = torch.arange(value.numel(), dtype=torch.float64)
        s = torch.sin(0.37 * i + 1.3 * k).view(value.shape)
        if name.endswith("running_mean"):
            value.copy_(0.05 * s)
        elif name.endswith("running_var"):
            value.copy_(1 + 0.3 * s**2)
        elif value.ndim >= 2:
            value.copy_(s * math.sqrt(2 / value[0].numel()))
        elif name.endswith("bias"):
            value.copy_(0.1 * s)
        else:
            value.copy_(1 + 0.1 * s)
    return model
