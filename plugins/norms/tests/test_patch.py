"""Dual patch norm: what it adds to a stem, and that the recording's level is gone."""

from typing import Any

import torch
from speechkit_norms.patch import dual_patch

from speechkit.models import Block, MatchboxNet
from speechkit.models import build as build_model
from speechkit.nn import Add, BatchNorm, BodyMaker, Chunk, DepthwiseConv, FrameWise, Pointwise
from speechkit.plugins import registry
from speechkit.testing import check_stream

BLOCKS = (
    Block(channels=8, kernel=5, stride=2),
    Block(channels=8, kernel=5, repeat=2, residual=True),
    Block(channels=8, kernel=1, separable=False),
)


def body_maker() -> BodyMaker:
    return BodyMaker(
        kernel=5,
        stride=2,
        residual=False,
        mixer=DepthwiseConv,
        channel=Pointwise,
        norm=BatchNorm,
        activation=lambda channels: FrameWise(torch.nn.ReLU()),
        merge=lambda channels, index, depth: Add(),
    )


def stems(**norms: Any) -> tuple[Any, Any]:
    """The bare stem and the one between norms, with the same weights."""
    torch.manual_seed(0)
    bare = registry().build("stem", "plain", 12, 8, body_maker()).eval()
    torch.manual_seed(0)
    return bare, dual_patch(12, 8, body_maker(), **norms).eval()


def features(seed: int = 0) -> Chunk:
    return Chunk.of(torch.randn(2, 12, 30, generator=torch.Generator().manual_seed(seed)))


def test_paper_119_without_norms_it_is_the_bare_stem() -> None:
    bare, stem = stems(pre="none", post="none")
    c = features()
    assert torch.equal(bare(c).x, stem(c).x)
    assert size(stem) == size(bare)


def test_paper_119_two_norms_have_so_many_parameters() -> None:
    bare, stem = stems()
    assert size(stem) - size(bare) == 2 * (12 + 8)


def test_paper_119_it_is_norm_stem_norm() -> None:
    bare, stem = stems()
    c = features()
    before = torch.nn.functional.layer_norm(c.x.transpose(1, 2), (12,), eps=1e-6)
    middle = bare(Chunk(before.transpose(1, 2), c.valid)).x.transpose(1, 2)
    after = torch.nn.functional.layer_norm(middle, (8,), eps=1e-6).transpose(1, 2)
    torch.testing.assert_close(stem(c).x, after)


def test_paper_119_the_level_of_a_recording_is_gone() -> None:
    scores = {}
    for stem in ("plain", "dual_patch"):
        torch.manual_seed(0)
        config = MatchboxNet(
            labels=("a", "b"), blocks=BLOCKS, frontend="log_mel:n_mels=16,normalize=none", stem=stem
        )
        model = build_model(config).eval()
        audio = torch.randn(1, 8000, generator=torch.Generator().manual_seed(1)) * 0.1
        with torch.inference_mode():
            quiet, loud = model(audio).scores, model(7.3 * audio).scores
        scores[stem] = (quiet - loud).abs().max().item()
    # what is left is the front end's log(2^-24 + energy): a tenth of the level leaves a hundredfold
    assert scores["dual_patch"] < 1e-4
    assert scores["plain"] > 1e-2


def test_it_streams_and_takes_any_norm() -> None:
    _, stem = stems(pre="rms", post={"name": "layer_cum", "params": {"eps": 1e-3}})
    check_stream(stem.double(), features().x.double(), torch.tensor([30, 17]), rtol=1e-11)


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
