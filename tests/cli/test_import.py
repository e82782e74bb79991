"""`import` makes a model folder, or says in one line why not and leaves nothing behind."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import speechkit as sk

from .conftest import Cli

METADATA = {
    "labels": "ab",
    "blank": "2",
    "frontend": "64 log-mel per_feature, v1 rule (reflect)",
}


@pytest.fixture
def folded(tmp_path: Path) -> Path:
    """A folded QuartzNet of three blocks."""
    shapes = {
        "blocks.0.sub.0.depthwise.weight": (64, 1, 3),
        "blocks.0.sub.0.pointwise.weight": (4, 64, 1),
        "blocks.0.sub.0.pointwise.bias": (4,),
        "blocks.1.sub.0.depthwise.weight": (4, 1, 3),
        "blocks.1.sub.0.pointwise.weight": (4, 4, 1),
        "blocks.1.sub.0.pointwise.bias": (4,),
        "blocks.2.sub.0.pointwise.weight": (4, 4, 1),
        "blocks.2.sub.0.pointwise.bias": (4,),
        "decoder.weight": (3, 4, 1),
        "decoder.bias": (3,),
    }
    save_file({n: torch.ones(s) for n, s in shapes.items()}, tmp_path / "m.safetensors", METADATA)
    return tmp_path / "m.safetensors"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A detector as NeMo 2.5 saves it: one dense block, no normalisation."""
    row = {"filters": 2, "repeat": 1, "kernel": [1], "residual": False, "separable": False}
    config = {
        "preprocessor": {
            "_target_": "x.AudioToMelSpectrogramPreprocessor",
            "features": 4,
            "normalize": None,
        },
        "encoder": {
            "_target_": "x.ConvASREncoder",
            "feat_in": 4,
            "activation": "relu",
            "jasper": [row],
        },
        "decoder": {"_target_": "x.MultiLayerPerceptron", "num_classes": 2, "num_layers": 1},
        "nemo_version": "2.5.0",
    }
    shapes = {
        "encoder.encoder.0.mconv.0.conv.weight": (2, 4, 1),
        **{f"encoder.encoder.0.mconv.1.{n}": (2,) for n in ("weight", "bias")},
        **{f"encoder.encoder.0.mconv.1.running_{n}": (2,) for n in ("mean", "var")},
        "decoder.layer0.weight": (2, 2),
        "decoder.layer0.bias": (2,),
    }
    weights = io.BytesIO()
    torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, weights)
    with tarfile.open(tmp_path / "m.nemo", "w") as tar:
        for name, data in (
            ("model_config.yaml", yaml.safe_dump(config).encode()),
            ("model_weights.ckpt", weights.getvalue()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return tmp_path / "m.nemo"


def test_it_makes_a_model_folder_and_says_what_it_is(
    cli: Cli, folded: Path, tmp_path: Path
) -> None:
    ended = cli("import", folded, tmp_path / "model")
    assert ended.code == 0, ended.err
    assert ended.out.count("\n") == 1
    assert "quartznet custom, 2 labels, 16,000 Hz" in ended.out
    assert ended.out.endswith("reads whole utterances; stream it with window_s=8\n")
    assert sk.load(tmp_path / "model").labels == ("a", "b")


def test_json_is_one_object(cli: Cli, archive: Path, tmp_path: Path) -> None:
    row = json.loads(cli("import", archive, tmp_path / "model", "--json").out)
    assert row["task"] == "frame"
    assert row["labels"] == 2
    assert row["streamable"] is True
    assert "compat" not in row["frontend"]
    assert "streams with a delay of" in cli("import", archive, tmp_path / "model").out


def test_the_frame_rule_is_an_option(cli: Cli, archive: Path, tmp_path: Path) -> None:
    ended = cli("import", archive, tmp_path / "model", "--frames", "nemo1", "--json")
    row = json.loads(ended.out)
    assert "compat=nemo1" in row["frontend"]
    assert "use compat=None" in row["why_not_streamable"]
    wrong = cli("import", archive, tmp_path / "model", "--frames", "v1")
    assert wrong.code == 2
    assert wrong.err.count("\n") == 1


@pytest.mark.parametrize("name", ["m.nemo", "m.safetensors", "none.nemo"])
def test_a_file_that_cannot_be_imported_is_one_line(cli: Cli, tmp_path: Path, name: str) -> None:
    if not name.startswith("none"):
        (tmp_path / name).write_text("this is not a model")
    before = sorted(tmp_path.rglob("*"))
    ended = cli("import", tmp_path / name, tmp_path / "new" / "model")
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_no_model_is_left_alone(cli: Cli, folded: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    ended = cli("import", folded, tmp_path / "mine")
    assert ended.code == 1
    assert "exists and is not a model folder" in ended.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes"]
