"""Reports agree with `evaluate`, for each kind of model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from speechkit.errors import ConfigError
from speechkit.models import Net, build
from speechkit.report import judge
from speechkit.tasks.evaluation import evaluate


def test_a_report_s_figures_are_those_of_evaluate(net: Net, corpus: Callable[..., Path]) -> None:
    model, manifest = build(net).eval(), corpus(5)
    metrics, figures = evaluate(model, manifest), judge(model, manifest).figures
    assert {key: figures[key] for key in metrics} == pytest.approx(metrics)


def test_a_report_keeps_the_manifest_s_order(
    nets: dict[str, Net], corpus: Callable[..., Path]
) -> None:
    judged = judge(build(nets["ctc"]).eval(), corpus(5))
    assert [h.utterance.audio.name for h in judged.results] == [f"train{i}.wav" for i in range(5)]


@pytest.mark.parametrize("decoder", ["greedy", "beam:beam=4"])
def test_sessions_return_the_same_words(
    nets: dict[str, Net], corpus: Callable[..., Path], decoder: str
) -> None:
    model, manifest = build(nets["ctc"]).eval(), corpus(5)
    whole, streamed = (judge(model, manifest, decoder, streaming) for streaming in (False, True))
    assert [h.text for h in streamed.results] == [h.text for h in whole.results]
    assert any(h.text for h in whole.results)
    for one, other in zip(streamed.results, whole.results, strict=True):
        assert [w.text for w in one.words] == [w.text for w in other.words]


@pytest.mark.parametrize("options", [{"streaming": True}, {"decoder": "beam"}])
def test_options_of_recognition_are_refused_elsewhere(
    nets: dict[str, Net], corpus: Callable[..., Path], options: dict
) -> None:
    with pytest.raises(ConfigError, match="are for recognition; leave them out for a marblenet"):
        judge(build(nets["frame"]), corpus(2), **options)


def test_a_report_reads_with_any_decoder(nets: dict[str, Net], corpus: Callable[..., Path]) -> None:
    judged = judge(build(nets["ctc"]).eval(), corpus(3), decoder="beam:beam=4")
    assert all([w.text for w in h.words] == h.text.split() for h in judged.results)
