"""What is installed, and the warning about the distribution that shadows this one."""

import json
import sys
import types
from pathlib import Path

import pytest

from speechkit.cli import doctor
from speechkit.ops import use_impl

from .conftest import Cli


def test_json_is_one_object(cli: Cli) -> None:
    ended = cli("doctor", "--json")
    row = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert row["packages"]["torch"]
    assert {"onnxruntime", "sounddevice", "av"} <= set(row["packages"])
    assert {"WAV", "FLAC", "OGG"} <= set(row["audio_formats"])
    assert "core" in row["plugins"]
    assert row["threads"] >= 1
    assert row["plans"].endswith(".so")


def test_each_op_says_what_runs_it(cli: Cli) -> None:
    ops = json.loads(cli("doctor", "--json").out)["ops"]
    assert list(ops) == ["depthwise_conv", "linear", "batch_norm", "separable_conv"]
    assert all(text.startswith(f"{op}: by ") for op, text in ops.items())
    with use_impl("torch"):
        assert "op linear" in (printed := cli("doctor").out)
    assert "by torch" in printed


def test_the_namesake_is_warned_of(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NAMESAKE", "pytest")
    ended = cli("doctor")
    assert ended.code == 0
    assert ended.err.startswith("warning: the unrelated distribution pytest ")
    assert "pip uninstall pytest && pip install --force-reinstall speechkit-core" in ended.err


def test_what_is_missing_is_reported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-distribution",))
    assert "not installed" in cli("doctor").out


def test_ffmpeg_is_looked_for_on_the_path(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert json.loads(cli("doctor", "--json").out)["ffmpeg"] is None
    assert "not on the PATH" in cli("doctor").out
    program = tmp_path / "ffmpeg"
    program.touch(mode=0o755)
    assert json.loads(cli("doctor", "--json").out)["ffmpeg"] == str(program)


def test_microphones_are_listed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [
        {"name": "Loudspeaker", "max_input_channels": 0},
        {"name": "USB microphone", "max_input_channels": 1},
    ]
    fake = types.SimpleNamespace(query_devices=lambda: devices)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    assert json.loads(cli("doctor", "--json").out)["microphones"] == {"1": "USB microphone"}
    assert "USB microphone" in cli("doctor").out
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "speechkit-core[mic]" in json.loads(cli("doctor", "--json").out)["microphones"]
