"""What the benchmark of voice activity counts."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from speechkit.data import Utterance
from speechkit.rules.vad import PostProcessing

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("benchmarks.vad")
    finally:
        sys.path.remove(str(ROOT))


def scene(path: Path, seconds: float, segments: list[tuple[float, float]], label: str) -> Utterance:
    soundfile.write(path, np.zeros(round(seconds * 16000)), 16000)
    return Utterance(audio=path, duration_s=seconds, segments=tuple(segments), label=label)


def detector(benchmark: ModuleType, spans: list[tuple[float, float]]) -> object:
    """One that finds the same speech in every recording, every 10 ms."""

    def probabilities(x: torch.Tensor) -> torch.Tensor:
        return benchmark.inside(spans, len(x) // 160).double()

    post = PostProcessing(onset=0.5, offset=0.5, min_speech_ms=0, min_silence_ms=0)
    return benchmark.Detector(probabilities, 0.01, 0, post)


def test_false_alarms_are_counted_by_the_hour_without_speech(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    silent = scene(tmp_path / "a.wav", 36.0, [], "test=music test=music:folk")
    found = benchmark.measure(detector(benchmark, [(1, 2), (5, 5.8)]), [silent])
    assert found["test music"] == found["test music:folk"]
    assert found["test music"]["false alarms an hour"] == 200
    assert found["test music"]["non-speech called speech"] == pytest.approx(0.05)
    assert "auc" not in found["test music"]


def test_misses_and_the_errors_of_edges(benchmark: ModuleType, tmp_path: Path) -> None:
    speech = scene(tmp_path / "a.wav", 20.0, [(2, 4), (10, 12)], "dev=gsm")
    figures = benchmark.measure(detector(benchmark, [(2.05, 3.9), (15, 16)]), [speech])["dev gsm"]
    assert figures["speech missed"] == pytest.approx(1 - 1.85 / 4, abs=1e-3)
    # the second is no part of any speech
    assert figures["false alarms an hour"] == round(3600 / 16)
    assert (figures["onset error ms"], figures["offset error ms"]) == (50, 100)
    assert figures["onsets found"] == 0.5


def test_a_missing_manifest_names_the_command(benchmark: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"type: python recipes/vad/conditions.py"):
        benchmark.main(str(tmp_path / "none.jsonl"))


def test_tables_have_a_row_a_condition_and_the_mean(benchmark: ModuleType, tmp_path: Path) -> None:
    scenes = [
        scene(tmp_path / f"{index}.wav", 4.0, [(1, 2)], f"test={name}")
        for index, name in enumerate(("gsm", "hum"))
    ]
    scenes.append(scene(tmp_path / "x.wav", 4.0, [], "test=keys"))
    results = {
        name: benchmark.measure(detector(benchmark, spans), scenes)
        for name, spans in (("good", [(1.0, 2.0)]), ("none", []))
    }
    text = "\n\n".join(benchmark.tables(results))
    assert "| auc | good | none |" in text
    assert "| test gsm | 1.0 | 0.5 |" in text
    assert "| mean of test | 1.0000 | 0.5000 |" in text
    assert "| test keys | 900 / 0.25 | 0 / 0.0 |" in text


def test_a_segment_that_overlaps_speech_is_no_false_alarm(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    speech = scene(tmp_path / "a.wav", 20.0, [(2, 4), (10, 12)], "dev=gsm")
    found = detector(benchmark, [(1.5, 3), (11, 13), (14, 15)])
    figures = benchmark.measure(found, [speech])["dev gsm"]
    assert figures["false alarms an hour"] == round(3600 / 16)
