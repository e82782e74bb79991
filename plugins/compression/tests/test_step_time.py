"""The time of a step of a stream."""

from dataclasses import replace
from typing import Any

import pytest
from speechkit_compression import step_time as module
from speechkit_compression.step_time import step_times_s

import speechkit as sk
from speechkit.models import Net


def test_it_is_the_median_of_the_rounds_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    def model(*seconds: float) -> Any:
        left = list(seconds)

        def run() -> None:
            nonlocal now_s
            now_s += left.pop(0)

        return run

    monkeypatch.setattr(module, "process_time", lambda: now_s)
    monkeypatch.setattr(module, "_run", lambda model, steps: model)
    models = [model(1, 8, 4, 6), model(9, 10, 12, 20)]
    assert step_times_s(models, step_s=0.5, rounds=3) == [1.5, 3]


@pytest.mark.parametrize(
    ("normalize", "shapes"), [("fixed", []), ("per_feature", [(1, 32000)] * 2)]
)
def test_a_model_that_cannot_stream_is_timed_on_the_whole(
    nets: dict[str, Net],
    monkeypatch: pytest.MonkeyPatch,
    normalize: str,
    shapes: list[tuple[int, int]],
) -> None:
    heard: list[tuple[int, ...]] = []
    monkeypatch.setattr(module, "prepare", lambda model: lambda audio: heard.append(audio.shape))
    frontend = f"log_mel:n_mels=16,normalize={normalize}"
    (time_s,) = step_times_s(
        [sk.build(replace(nets["frame"], frontend=frontend), 0).eval()], rounds=1
    )
    assert heard == shapes
    assert time_s > 0
