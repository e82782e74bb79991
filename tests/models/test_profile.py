"""What a model costs and how far it looks, against the tables of the papers' nets."""

import pytest
import torch
from torch import Tensor, nn

from speechkit.models import Block, MarbleNet, MatchboxNet, Net, QuartzNet, build
from speechkit.models.profile import profile
from speechkit.nn import Chunk, FrameWise, Serial, StreamLayer

COMMANDS = tuple(f"word{i}" for i in range(12))
NETS: dict[str, tuple[Net, float, int]] = {
    "quartznet 5x5": (QuartzNet(size="5x5"), 334.25, 1468),
    "quartznet 10x5": (QuartzNet(size="10x5"), 638.30, 2748),
    "quartznet 15x5": (QuartzNet(size="15x5"), 942.35, 4028),
    "matchboxnet 3x1x64": (MatchboxNet(size="3x1x64", labels=COMMANDS), 7.18, 54),
    "matchboxnet 3x2x64": (MatchboxNet(size="3x2x64", labels=COMMANDS), 8.70, 75),
    "marblenet 3x2x64": (MarbleNet(size="3x2x64"), 8.70, 75),
    # the encoder's 4.46 and the head's 0.0128
    "marblenet frames": (MarbleNet(size="3x2x64", frame_level=True), 4.47, 145),
}


def small(normalize: str, **options: object) -> Net:
    blocks = (Block(channels=8, kernel=5, stride=2), Block(channels=8, kernel=1, separable=False))
    return QuartzNet(blocks=blocks, frontend=f"log_mel:normalize={normalize}", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETS)
def test_work_and_look_ahead_are_the_papers(name: str) -> None:
    config, mega_macs_per_s, frames = NETS[name]
    model = build(config)
    assert round(profile(model).macs_per_s / 1e6, 2) == mega_macs_per_s
    net = Serial(stem=model.stem, encoder=model.encoder)
    assert net.right == net.left == frames


class Bilinear(nn.Module):
    """A matrix of its own, and no word on what it multiplies."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(channels))
        self.slope = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x * self.slope


class Counted(Bilinear):
    def macs(self, frames: int) -> int:
        return self.weight.numel() * frames


class Linear(StreamLayer):
    """A layer of a plugin that is made of torch's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.product = nn.Linear(channels, channels)
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, groups=4)

    def forward(self, c: Chunk) -> Chunk:
        y = self.product(c.x.transpose(1, 2)).transpose(1, 2)
        return Chunk(self.conv(y), c.valid)


@pytest.mark.parametrize(
    ("layer", "macs_per_frame", "not_counted"),
    [
        (FrameWise(Bilinear(8)), 0, ("Bilinear",)),
        (FrameWise(Counted(8)), 64, ()),
        (Linear(8), 64 + 8 * 2 * 3, ()),
    ],
)
def test_a_plugins_layer_is_counted_or_named(
    layer: StreamLayer, macs_per_frame: int, not_counted: tuple[str, ...]
) -> None:
    model = build(small("fixed"))
    before = profile(model)
    assert before.not_counted == ()
    model.encoder = Serial(encoder=model.encoder, more=layer)
    after = profile(model)
    # 100 features a second, every second one
    assert after.macs_per_s - before.macs_per_s == 50 * macs_per_frame
    assert after.not_counted == not_counted


def test_a_model_that_reads_the_whole_utterance_does_not_stream() -> None:
    p = profile(build(small("per_feature")))
    assert not p.streamable
    assert p.latency_s is p.lookahead_s is p.receptive_field_s is None
    assert p.why_not_streamable is not None
    assert "normalize='running'" in p.why_not_streamable


def test_running_statistics_stream_without_a_bound_to_the_past() -> None:
    p = profile(build(small("running")))
    assert p.streamable
    assert p.receptive_field_s is None
    # the window's second half, and two feature frames of 10 ms
    assert p.lookahead_s == pytest.approx(159 / 16000 + 2 * 0.01)


def test_fixed_statistics_have_a_receptive_field() -> None:
    causal = profile(build(small("fixed", lookahead=0)))
    # the window, the sample before it that pre-emphasis reads, and four feature frames of 10 ms
    assert causal.receptive_field_s == pytest.approx((320 + 1) / 16000 + 4 * 0.01)
    assert causal.latency_s == 0
    assert causal.frame_s == 0.02


def test_a_clip_classifier_streams() -> None:
    p = profile(build(MatchboxNet(labels=COMMANDS)))
    assert p.streamable
    assert p.receptive_field_s is None
    assert p.latency_s == pytest.approx(0.55)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = build(small("fixed")).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile(model)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
