"""A folded QuartzNet against the same net with its batch norms, and files that do not fit."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import speechkit as sk
from speechkit.errors import CheckpointError
from speechkit.importers import read_model

BLOCKS = (
    sk.Block(channels=8, kernel=5, stride=2),
    sk.Block(channels=8, kernel=5, repeat=3, residual=True),
    sk.Block(channels=8, kernel=7, repeat=3, residual=True),
    sk.Block(channels=8, kernel=9, dilation=2),
    sk.Block(channels=12, kernel=1, separable=False),
)
METADATA = {
    "labels": " abcdefghijklmnopqrstuvwxyz'",
    "blank": "28",
    "frontend": "64 log-mel per_feature, v1 rule (reflect)",
}


def unfolded() -> sk.models.Model:
    """A net whose batch norms have seen something."""
    model = sk.build(sk.QuartzNet(blocks=BLOCKS, frontend="log_mel:compat=nemo1")).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "norm" in name and value.is_floating_point():
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model


def folded(model: sk.models.Model) -> dict[str, Tensor]:
    """The tensors of the file's layout, each norm's scale in the weights before it."""
    own = model.state_dict()

    def fold(weight: str, norm: str, name: str) -> dict[str, Tensor]:
        scale = own[f"{norm}.weight"] / (own[f"{norm}.running_var"] + 1e-3).sqrt()
        bias = own[f"{norm}.bias"] - own[f"{norm}.running_mean"] * scale
        w = own[weight].reshape(own[weight].shape[0], -1, 1) * scale[:, None, None]
        return {f"{name}.pointwise.weight": w, f"{name}.pointwise.bias": bias}

    made = {"decoder.weight": own["head.linear.weight"][:, :, None]}
    made["decoder.bias"] = own["head.linear.bias"]
    for b, block in enumerate(BLOCKS):
        start = "stem" if b == 0 else f"encoder.{b - 1}"
        for r in range(block.repeat):
            part = f"{start}.{'sum.body' if block.residual else 'body'}.{2 * r}"
            name = f"blocks.{b}.sub.{r}"
            if block.separable:
                made[f"{name}.depthwise.weight"] = own[f"{part}.mixer.weight"]
            weight = f"{part}.{'channel' if block.separable else 'conv'}.weight"
            made |= fold(weight, f"{part}.norm", name)
        if block.residual:
            part = f"{start}.sum.shortcut"
            made |= fold(f"{part}.channel.weight", f"{part}.norm", f"blocks.{b}.residual")
    return made


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] = METADATA) -> Path:
    save_file({name: x.contiguous() for name, x in tensors.items()}, path, metadata)
    return path


@torch.no_grad()
def test_a_folded_net_gives_the_scores_of_the_unfolded(tmp_path: Path) -> None:
    model = unfolded()
    read = read_model(write(tmp_path / "m.safetensors", folded(model)))
    assert read.config.blocks == BLOCKS
    assert read.config.normalization == "english"
    audio = torch.rand(1, 8000, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.testing.assert_close(read(audio).scores, model(audio).scores, rtol=0, atol=1e-5)


def test_half_precision_becomes_float32_and_the_rule_can_be_given(tmp_path: Path) -> None:
    tensors = {name: x.half() for name, x in folded(unfolded()).items()}
    path = write(tmp_path / "m.safetensors", tensors)
    assert {p.dtype for p in read_model(path).parameters()} == {torch.float32}
    assert str(read_model(path).config.frontend) == "log_mel:compat=nemo1"
    assert str(read_model(path, "invariant").config.frontend) == "log_mel"


@pytest.mark.parametrize(
    ("tensors", "metadata", "says"),
    [
        ({}, {"labels": None}, "has no 'labels' in its metadata"),
        ({}, {"blank": "0"}, "blank is 0 of 28 labels; it must come last"),
        ({}, {"frontend": "80 log-mel"}, 'frontend "80 log-mel" is not one of'),
        ({}, {"labels": "aa", "blank": "2"}, "give at least one label, each of them once"),
        ({"extra": torch.ones(1)}, {}, "hold 'extra', unknown"),
        ({"decoder.bias": torch.ones(3)}, {}, "'decoder.bias' is torch.float32 [3]"),
        ({"decoder.bias": None}, {}, "lack 'decoder.bias'"),
        ({"blocks.1.sub.1.pointwise.weight": None}, {}, "lack 'blocks.1.sub.1.pointwise.weight'"),
        ({"blocks.2.sub.0.depthwise.weight": None}, {}, "block 2 of 5 is not a QuartzNet's"),
        ({"blocks.0.sub.0.pointwise.weight": None}, {}, "has no blocks.0, blocks.1"),
        ({"blocks.0.sub.0.pointwise.weight": torch.ones(2)}, {}, "block 0 of 5 is not a"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, Any], says: str
) -> None:
    given = {k: x for k, x in {**folded(unfolded()), **tensors}.items() if x is not None}
    about = {k: x for k, x in {**METADATA, **metadata}.items() if x is not None}
    with pytest.raises(CheckpointError) as caught:
        read_model(write(tmp_path / "m.safetensors", given, about))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-9], lambda data: b"\xff" * 8 + data[8:]]
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path / "m.safetensors", folded(unfolded()))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_model(path)


@torch.no_grad()
def test_the_real_file_is_a_quartznet_15x5() -> None:
    folder = os.environ.get("SPEECHKIT_DATA")
    path = Path(folder or "/", "peers", "quartznet15x5_en_folded_fp16.safetensors")
    if not folder or not path.exists():
        pytest.skip(f"SPEECHKIT_DATA names no folder with peers/{path.name}")
    model = read_model(path)
    assert model.config.size == "15x5"
    assert sum(p.numel() for p in model.parameters()) == 18_885_725
    sound = Path(folder, "an4", "train", "fash", "an251-fash-b.opus")
    assert sk.transcribe(model, sound).text == "yes"
