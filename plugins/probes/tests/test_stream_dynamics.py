"""The path of a frame through blocks of one width."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from speechkit_probes.stream_dynamics import winding

import speechkit as sk
from speechkit.data import Utterance
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


def test_sixteen_turns_of_45_degrees_wind_twice() -> None:
    angles = torch.arange(17).double() * math.pi / 4
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(6, 2, generator=generator).double()).Q
    states = torch.stack([2 * circle @ plane.T, 3 * circle @ plane.T], 1)
    assert winding(states) == pytest.approx(2.0)
    assert winding(states[:1].expand(5, -1, -1)) == pytest.approx(0.0, abs=1e-9)


def scaled(nets: dict[str, Net], factor: float) -> sk.Model:
    """A net whose three blocks return `factor` times their input, which is not below 0."""
    model = sk.build(nets["clip"], 1).eval()
    for block in list(model.encoder.children())[:3]:
        parts: Any = block
        shortcut, last = parts.sum.shortcut, parts.sum.body[2]
        with torch.no_grad():
            shortcut.channel.weight.copy_(factor * torch.eye(8) * (1 + shortcut.norm.eps) ** 0.5)
            last.channel.weight.zero_()
    return model


def test_blocks_that_return_their_input_do_not_move(nets: dict[str, Net], corpus: Corpus) -> None:
    model = scaled(nets, 1.0)
    found = probe(model, ["stream_dynamics"], Examples(model, corpus(3)))["stream_dynamics"]
    assert found["first_block"] == 0
    torch.testing.assert_close(found["cosine"], torch.ones(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found["speed"], torch.zeros(3).double(), atol=1e-4, rtol=0)
    assert found["winding"] < 1e-4
    torch.testing.assert_close(found["correlation"], torch.ones(3).double(), atol=1e-5, rtol=0)


def test_a_contraction_attracts(nets: dict[str, Net], corpus: Corpus) -> None:
    model = scaled(nets, 0.5)
    spec = "stream_dynamics:push=0.001"
    found = probe(model, [spec], Examples(model, corpus(3)))[spec]
    torch.testing.assert_close(found["speed"], torch.full((3,), 0.5).double(), atol=1e-3, rtol=0)
    # units that are 0 stay at 0 where the displacement is below it
    assert torch.all(found["push"] < torch.tensor([0.13, 0.26, 0.51]))
    assert torch.all(found["push"] > torch.tensor([0.06, 0.12, 0.25]))


def test_a_net_with_one_block_is_refused(nets: dict[str, Net], corpus: Corpus) -> None:
    rows = (sk.Block(channels=8, kernel=3), sk.Block(channels=8, kernel=3))
    model = sk.build(replace(nets["clip"], size="custom", blocks=rows)).eval()
    with pytest.raises(ComponentError, match="no two blocks in a row"):
        probe(model, ["stream_dynamics"], Examples(model, corpus(2)))


def test_a_push_must_be_positive(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give a number above 0"):
        probe(model, ["stream_dynamics:push=0"], Examples(model, corpus(2)))


def test_a_frame_of_0_is_left_out_and_the_batch_does_not_count(
    nets: dict[str, Net], corpus: Corpus
) -> None:
    model = scaled(nets, 0.5)
    # the stem is 0 in most frames
    stem: Any = model.stem
    with torch.no_grad():
        for _, features in Examples(model, corpus(3)):
            z = stem.body[0](features).x
        stem.body[0].norm.bias.sub_(z.amax() * 0.9)
    one, three = (
        probe(model, ["stream_dynamics"], Examples(model, corpus(3), batch_size=n)) for n in (1, 3)
    )
    for name, value in one["stream_dynamics"].items():
        torch.testing.assert_close(value, three["stream_dynamics"][name])
    assert 0 < one["stream_dynamics"]["push"].max() < 10
    assert one["stream_dynamics"]["speed"].max() < 2


def test_a_clip_of_one_frame_does_not_hide_a_stride(nets: dict[str, Net], tmp_path: Path) -> None:
    first, second, last = nets["clip"].blocks
    rows = (replace(first, stride=1), replace(first, stride=2), second, last)
    model = sk.build(replace(nets["clip"], blocks=rows)).eval()
    utterances = []
    for i, count in enumerate((320, 8000)):
        soundfile.write(
            tmp_path / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, count), 16000
        )
        utterances.append(Utterance(audio=tmp_path / f"{i}.wav", duration_s=count / 16000))
    found = probe(model, ["stream_dynamics"], Examples(model, utterances))["stream_dynamics"]
    assert found["first_block"] == 1
    assert len(found["push"]) == 3


def test_the_displacement_has_the_share_that_is_asked_for(
    nets: dict[str, Net], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []

    def keep(delta: torch.Tensor, block: Any, args: Any) -> None:
        (c,) = args
        x = c.x.transpose(1, 2)[c.valid]
        kept = x.norm(dim=1) > 0
        shares.append((delta.norm(dim=1) / x.norm(dim=1))[kept])

    monkeypatch.setattr("speechkit_probes.stream_dynamics._displaced", keep)
    model = sk.build(nets["clip"], 1).eval()
    probe(model, ["stream_dynamics:push=0.25"], Examples(model, corpus(1)))
    found = torch.cat(shares)
    torch.testing.assert_close(found, torch.full_like(found, 0.25))
