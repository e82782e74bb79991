"""The mini_librispeech recipe takes a split of one's own."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechkit.data import Utterance, read_manifest, write_manifest

RECIPE = Path(__file__).parents[2] / "recipes" / "mini_librispeech"


def test_manifests_in_the_folder_are_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    sys.modules.pop("prepare", None)
    prepare = importlib.import_module("prepare").prepare
    source, out = tmp_path / "source", tmp_path / "out"
    for name in ("train", "dev"):
        path = source / "a" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(1600), 16000)
        row = Utterance(audio=path, duration_s=0.1, text=name, speaker=name)
        write_manifest(source / f"{name}.jsonl", [row])
    assert prepare(source, out) == [out / "train.jsonl", out / "dev.jsonl"]
    for name in ("train", "dev"):
        assert read_manifest(out / f"{name}.jsonl") == read_manifest(source / f"{name}.jsonl")
