"""The benchmarks are honest: turns are taken, and what is wrong or absent is not timed."""

import importlib
import json
import sys
import time
from math import inf
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from rich.console import Console

import speechkit as sk
from speechkit.nn import Chunk

ROOT = Path(__file__).parents[1]
MODULES = (
    *("cache_net", "components", "inputs", "mixers", "plain", "registry", "run", "settled"),
    *("timing", "ov", "verify"),
)


@pytest.fixture(scope="module")
def bench():
    """The modules of the folder, which lies beside the package."""
    sys.path.insert(0, str(ROOT))
    try:
        modules = {name: importlib.import_module(f"benchmarks.{name}") for name in MODULES}
        yield SimpleNamespace(**modules)
    finally:
        sys.path.remove(str(ROOT))


def refusing(reason):
    def build():
        raise reason

    return build


@pytest.fixture
def fakes(bench):
    """A baseline that says 1, and others that say so nearly, not at all, or cannot be had."""

    def returning(name, *values, **more):
        return bench.registry.Contestant(name, lambda: lambda: torch.tensor(values), **more)

    def benchmark(*contestants, **more):
        first = returning("baseline", 1.0, 2.0)
        return bench.registry.Benchmark("fake/one", "nothing", (first, *contestants), **more)

    return SimpleNamespace(returning=returning, benchmark=benchmark)


def test_contestants_take_turns_and_another_one_begins_each_round(bench):
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "abc"}
    samples = bench.timing.interleaved(runs, 4, lambda run: run() or 1.0)
    assert "".join(order) == "abcbcacababc"
    assert samples == {name: [1.0] * 4 for name in "abc"}


def test_ratio_is_how_many_times_as_fast_as_the_baseline(bench, fakes):
    benchmark = fakes.benchmark(fakes.returning("ours", 1.0, 2.0, units=10), audio_s=2.0)
    samples = {"baseline": [30.0, 10.0, 20.0], "ours": [40.0, 50.0, 60.0]}
    found = bench.timing.figures(benchmark, samples, {})
    assert found["baseline"].median == 20
    assert found["baseline"].ratio == 1
    assert found["ours"].median == 5
    assert found["ours"].p10 == pytest.approx(4.2)
    assert found["ours"].ratio == 4
    assert found["ours"].rtf == 0.0025


def test_one_that_is_wrong_is_not_timed(bench, fakes):
    runs, refused = bench.verify.admitted(
        fakes.benchmark(
            fakes.returning("near", 1.0, 2.0001),
            fakes.returning("far", 1.0, 2.1),
            fakes.returning("nan", 1.0, float("nan")),
            fakes.returning("short", 1.0),
        )
    )
    assert list(runs) == ["baseline", "near"]
    assert refused["far"] == "wrong: off by 0.05 of the largest value, 0.0001 is allowed"
    assert list(refused) == ["far", "nan", "short"]


def test_each_tensor_may_have_a_tolerance_of_its_own(bench):
    def contestant(name, second, tolerance=1e-4):
        y = torch.ones(3), torch.full((3,), second)
        return bench.registry.Contestant(name, lambda: lambda: y, tolerance)

    contestants = (
        contestant("baseline", 1.0),
        contestant("one", 2.0),
        contestant("each", 2.0, (1e-4, inf)),
    )
    runs, _ = bench.verify.admitted(bench.registry.Benchmark("fake", "nothing", contestants))
    assert list(runs) == ["baseline", "each"]


def test_a_contestant_may_have_a_reference_of_its_own(bench, fakes):
    runs, refused = bench.verify.admitted(
        fakes.benchmark(
            fakes.returning("other", 5.0, reference=lambda: torch.tensor([5.0])),
            fakes.returning("off", 6.0, reference=lambda: torch.tensor([5.0])),
            fakes.returning("alone", 7.0, tolerance=inf),
        )
    )
    assert list(runs) == ["baseline", "other", "alone"]
    assert list(refused) == ["off"]


def test_an_absent_one_says_why(bench, fakes):
    reasons = bench.registry.Absent("it is not installed"), sk.errors.ConfigError("it cannot")
    absent = [
        bench.registry.Contestant(name, refusing(reason))
        for name, reason in zip(("one", "two"), reasons, strict=True)
    ]
    found = bench.timing.timed(fakes.benchmark(*absent), 1)
    assert found["one"] == bench.timing.Figure(refused="absent: it is not installed")
    assert found["two"] == bench.timing.Figure(refused="absent: it cannot")


def test_openvino_that_is_not_installed_is_absent(bench, monkeypatch):
    monkeypatch.setattr(bench.ov, "find_spec", lambda name: None)
    with pytest.raises(bench.registry.Absent, match="openvino is not installed; run make peers"):
        bench.ov.request("net.onnx")


def test_nothing_is_compared_with_a_baseline_that_is_absent(bench, fakes):
    first = bench.registry.Contestant("baseline", refusing(bench.registry.Absent("gone")))
    contestants = (
        first,
        fakes.returning("ours", 1.0),
        fakes.returning("alone", 1.0, tolerance=inf),
    )
    found = bench.timing.timed(bench.registry.Benchmark("fake", "nothing", contestants), 1)
    assert found["ours"].refused == "wrong: there is no baseline to compare it with"
    assert found["alone"].median is not None
    assert found["alone"].ratio is None


def test_one_round_is_enough_where_nothing_is_timed(bench, fakes):
    rounds = []
    measure = lambda run: rounds.append(run) or 1.0  # noqa: E731
    bench.timing.timed(fakes.benchmark(measure=measure, repeat=False), 9)
    assert len(rounds) == 1


def test_with_the_processors_time_only_what_runs_here_is_measured_anew(bench, fakes, monkeypatch):
    ours = bench.run.on_the_processor(fakes.benchmark())
    assert ours.measure is bench.registry.processor_milliseconds
    assert ours.unit == "ms of the processor"
    now_s = iter([1.0, 1.25])
    monkeypatch.setattr(time, "process_time", lambda: next(now_s))
    assert ours.measure(lambda: None) == 250
    elsewhere = fakes.benchmark(measure=lambda run: 1.0, unit="MiB")
    assert bench.run.on_the_processor(elsewhere) is elsewhere


def test_results_are_written_and_drawn(bench, fakes, tmp_path):
    absent = bench.registry.Contestant("<gone>", refusing(bench.registry.Absent("not here")))
    benchmark = fakes.benchmark(fakes.returning("ours", 1.0, 2.0), absent, audio_s=1.0)
    path, threads = tmp_path / "runs" / "bench.json", torch.get_num_threads()
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        bench.run.run([benchmark], 2, Console(file=log, width=200), path, threads=2)
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["threads"] == used == 2
    assert {"date", "commit", "processor", "cores", "load", "versions"} <= set(result)
    one = result["benchmarks"]["fake/one"]
    assert one["baseline"] == "baseline"
    assert set(one["contestants"]["ours"]) == {"median", "p10", "ratio", "rtf"}
    assert one["contestants"]["<gone>"] == {"refused": "absent: not here"}
    assert "<gone>: absent: not here" in (tmp_path / "log").read_text(encoding="utf-8")
    picture = ElementTree.parse(path.with_suffix(".svg")).getroot()
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert "<gone>" in texts
    assert "absent: not here" in texts


def test_a_note_stands_beside_each_figure_and_the_summary_below_them(bench, fakes, tmp_path):
    benchmark = fakes.benchmark(
        fakes.returning("ours", 1.0, 2.0),
        note=lambda run: f"gives {run()[0]:g}",
        summary=lambda found: [f"{len(found)} in all"],
    )
    path, threads = tmp_path / "bench.json", torch.get_num_threads()
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        bench.run.run([benchmark], 1, Console(file=log, width=200), path)
    torch.set_num_threads(threads)
    one = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]["fake/one"]
    assert one["contestants"]["ours"]["note"] == "gives 1"
    assert one["summary"] == ["2 in all"]
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert "gives 1" in text
    assert "2 in all" in text


def test_every_component_that_streams_has_a_net(bench):
    nets = bench.components.nets()
    assert nets["activation core/relu"] == (("activation", "core/relu"),)
    assert nets["pool core/average"] == (("head", "core/clip:pool={core/average}"),)
    assert nets["row of mixer core/depthwise"] == (
        ("size", "custom"),
        ("blocks.2.mixer", "core/depthwise"),
    )
    assert "normalizer core/running" in nets
    assert "normalizer core/per_feature" not in nets


def test_the_slowest_components_and_the_engines_are_summed_up(bench):
    def figure(ratio, note):
        return bench.registry.Figure(median=1.0, ratio=ratio, note=note)

    lines = bench.components.summary(
        {
            bench.components.PLAIN: figure(1.0, "native"),
            "norm a": figure(1.0, "native"),
            "norm b": figure(0.5, "native"),
            "norm c": figure(0.1, "torch: no native C"),
            "norm d": bench.registry.Figure(refused="wrong"),
        }
    )
    assert lines == [
        "3 components: 2 native (67%), 1 torch (33%)",
        "slowest: norm c 10.0×, norm b 2.0×, norm a 1.0×",
    ]


def test_nothing_is_timed_where_the_tests_are_red(bench, monkeypatch):
    monkeypatch.setattr(bench.run, "run_tests", lambda: False)
    monkeypatch.setattr(bench.run, "run", lambda *_: pytest.fail("timed"))
    assert bench.run.main([]) == 1


def test_benchmarks_are_chosen_by_subject_or_name(bench, capsys):
    assert bench.run.main(["--list", "depthwise", "offline/5x5-1"]) == 0
    listed = [x.split(":")[0] for x in capsys.readouterr().out.splitlines() if x[0] != " "]
    assert listed[-1] == "offline/5x5-1"
    assert {name.split("/")[0] for name in listed} == {"depthwise", "offline"}
    assert bench.run.main(["--list", "nothing"]) == 2


def test_each_name_of_a_benchmark_and_contestant_is_there_once(bench):
    options = bench.registry.Options()
    every = [b for subject in bench.run.SUBJECTS for b in subject.benchmarks(options)]
    assert len({b.name for b in every}) == len(every)
    for benchmark in every:
        assert len({c.name for c in benchmark.contestants}) == len(benchmark.contestants)


@pytest.mark.parametrize("kind", [sk.MatchboxNet, sk.QuartzNet])
def test_the_plain_net_and_ours_are_one_function(bench, kind):
    blocks = (
        sk.Block(channels=8, kernel=5, stride=2),
        sk.Block(channels=8, kernel=7, repeat=2, residual=True, copies=2),
        sk.Block(channels=12, kernel=9, dilation=2),
        sk.Block(channels=12, kernel=1, separable=False),
    )
    model = sk.build(kind(blocks=blocks, labels=("a", "b", "c")), seed=0).double().train()
    net = bench.plain.plain_net(model).double()
    x = bench.inputs.noise(3, 64, 40).double()
    y = net(x)
    expected = model.score(Chunk.of(bench.inputs.channels_last(x))).scores
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    y.square().mean().backward()
    expected.square().mean().backward()
    ours = [p.grad for p in model.parameters() if p.grad is not None]
    for weight, gradient in zip(net.parameters(), ours, strict=True):
        torch.testing.assert_close(weight.grad, gradient.view_as(weight), rtol=1e-6, atol=1e-9)


@torch.inference_mode()
def test_the_cache_net_steps_as_ours_does(bench):
    blocks = (
        sk.Block(channels=8, kernel=5, stride=2),
        sk.Block(channels=8, kernel=7, repeat=2, residual=True),
        sk.Block(channels=12, kernel=1, separable=False),
    )
    model = sk.build(sk.QuartzNet(blocks=blocks, lookahead=0), seed=0)
    x = bench.inputs.noise(1, 64, 24)
    expected = bench.settled.settled(model, x).score(Chunk.of(bench.inputs.channels_last(x))).scores
    net = bench.cache_net.CacheNet(bench.plain.plain_net(model), 4)
    caches, scores = net.caches(), []
    for rows in x[0].T.split(4):
        y, *caches = net(rows, *caches)
        scores.append(y)
    torch.testing.assert_close(torch.cat(scores), expected[0], rtol=1e-4, atol=1e-5)


def test_speech_has_the_duration_asked_for(bench):
    x = bench.inputs.speech(20.0)
    assert x.shape == (320000,)
    assert np.abs(x).max() > 0.1


def test_a_row_or_the_net_has_what_is_measured(bench):
    config = bench.mixers.model_of(["kernel=5", "lookahead=1"]).config
    plain = bench.mixers.model_of([]).config
    kernels = [[row.kernel for row in each.blocks] for each in (config, plain)]
    assert [one == other for one, other in zip(*kernels, strict=True)] == [i != 2 for i in range(6)]
    assert (config.lookahead, kernels[0][2]) == (1, 5)


def test_costs_of_rows_that_are_not_on_the_page_are_printed(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench.mixers, "ratios", lambda kind, rows: dict.fromkeys(rows, 1.5))
    bench.mixers.main(["kernel=5", "kernel=5 lookahead=1"])
    lines = capsys.readouterr().out.splitlines()
    names, costs = zip(*(line.split(" {") for line in lines), strict=True)
    first, other = (json.loads("{" + text) for text in costs)
    assert names == ("kernel=5", "kernel=5 lookahead=1")
    assert (first["stream"], first["training"], first["engine"]) == (1.5, 1.5, "native")
    assert first["parameters"] == other["parameters"] < 0
    assert other["latency_ms"] < 0
