"""Sessions of a plan are those of its model; a plan of a plugin's task gives scores alone."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import speechkit as sk
from speechkit.errors import CheckpointError, ConfigError, StreamError
from speechkit.events import Event, Keyword
from speechkit.implementation import use_impl
from speechkit.io.folders import PLAN
from speechkit.models import Net
from speechkit.plans.plan import Plan
from speechkit.plans.source import resolve
from speechkit.tasks.plans import facts_of, plan_of

RATE = 16000


def sound(seconds: float, rate: int = RATE) -> np.ndarray:
    chance = np.random.default_rng(0)
    x = chance.normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    return x * (np.arange(len(x)) // (rate // 2) % 2)


def events(source: object, x: np.ndarray, rate: int) -> list[Event]:
    session = sk.stream(source, rate)
    return session.feed(x) + session.finish()


@pytest.mark.parametrize("rate", [8000, RATE, 44100])
def test_events_are_those_of_the_model(model: sk.Model, plan: Plan, rate: int) -> None:
    x = sound(2, rate)
    found, expected = events(plan, x, rate), events(model, x, rate)
    assert [type(event) for event in found] == [type(event) for event in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.at_s, one.decided_s) == (other.at_s, other.decided_s)
        if isinstance(one, Keyword) and isinstance(other, Keyword):
            assert one.label == other.label
    session, own = sk.stream(plan, rate), sk.stream(model, rate)
    assert session.latency_s == pytest.approx(own.latency_s)
    session.feed(x)
    own.feed(x)
    assert session.scores is not None
    assert own.scores is not None
    np.testing.assert_allclose(session.scores, own.scores, rtol=1e-4, atol=1e-5)


def test_a_session_is_copied_and_pickled(plan: Plan) -> None:
    x, session = sound(1), sk.stream(plan)
    session.feed(x[:9000])
    copies = copy.deepcopy(session), pickle.loads(pickle.dumps(session))
    expected = session.feed(x[9000:]) + session.finish()
    for other in copies:
        assert other.feed(x[9000:]) + other.finish() == expected


def test_a_state_goes_on_with_other_rules_and_not_with_another_plan(
    nets: dict[str, Net],
) -> None:
    plan, other = (plan_of(sk.build(nets["frame"], seed)) for seed in (0, 1))
    session = sk.stream(plan)
    session.feed(sound(1))
    sk.stream(plan.with_(postprocess={"onset": 0.2})).state = session.state
    with pytest.raises(StreamError, match="another model"):
        sk.stream(other).state = session.state


@pytest.mark.parametrize("rate", [8000, RATE, 44100])
def test_a_state_goes_between_a_model_and_its_plan(
    model: sk.Model, plan: Plan, rate: int, tmp_path: Path
) -> None:
    plan.save(tmp_path / PLAN)
    x, sources = sound(1, rate), (model, plan, tmp_path / PLAN)
    for source in sources:
        first = sk.stream(source, rate)
        first.feed(x)
        state, found = first.state, first.feed(x) + first.finish()
        for other in sources:
            second = sk.stream(other, rate)
            second.state = state
            assert second.feed(x) + second.finish() == found
            np.testing.assert_array_equal(second.scores, first.scores)


def test_a_state_goes_between_a_bundled_recogniser_and_its_plan() -> None:
    model, detector, x = sk.load("an4"), sk.load("vad"), sound(1)
    first, second = sk.stream("an4"), sk.stream(model, vad=detector)
    first.feed(x)
    second.state = first.state
    assert second.finish() == first.finish()


def test_a_state_of_another_engine_is_named(nets: dict[str, Net]) -> None:
    model = sk.build(nets["frame"])
    with use_impl("torch"):
        in_torch = sk.stream(model)
    native, windowed = sk.stream(model), sk.stream(model, window_s=0.5)
    with pytest.raises(
        StreamError, match="is of the torch engine, and this session has the native"
    ):
        native.state = in_torch.state
    with pytest.raises(StreamError, match=r"is of the native engine, .* torch one; .*use_impl"):
        in_torch.state = native.state
    with pytest.raises(StreamError, match="is of the windowed engine, and this session"):
        native.state = windowed.state


def test_batches_and_pools_take_plans(nets: dict[str, Net]) -> None:
    plan, x = plan_of(sk.build(nets["frame"])), sound(1)
    batch, pool = sk.StreamBatch(plan, 2), sk.SessionPool(plan, 2)
    alone = events(plan, x, RATE)
    found = batch.feed(np.stack([x, x]))
    assert [own + more for own, more in zip(found, batch.finish(), strict=True)] == [alone] * 2
    assert (batch.backend, pool.backend) == ("native", "native")


def test_a_rate_that_does_not_fit_is_refused(plan: Plan) -> None:
    with pytest.raises(StreamError, match="does not fit 16000 Hz; resample the sound"):
        sk.stream(plan, 16001)
    with pytest.raises(StreamError, match=r"sample_rate=8000.5 is no whole number"):
        sk.stream(plan, 8000.5)  # type: ignore[arg-type]


def test_a_decoder_is_for_text(nets: dict[str, Net]) -> None:
    with pytest.raises(ConfigError, match="leave it out for a marblenet"):
        sk.stream(plan_of(sk.build(nets["frame"])), decoder="greedy")


def test_the_task_of_a_plugin_gives_scores_and_no_events(nets: dict[str, Net]) -> None:
    plan = plan_of(sk.build(nets["frame"]))
    foreign = replace(plan, about=replace(plan.about, task="acme/angle", verb="aim"))
    session = sk.stream(foreign)
    again = sk.stream(foreign)
    assert session.feed(sound(1)) == []
    again.state = session.state
    assert again.finish() == session.finish() == []
    assert session.scores is not None
    with pytest.raises(ConfigError, match="cannot detect; use `speechkit aim`"):
        sk.detect(replace(foreign, about=replace(foreign.about, postprocess=None)), sound(1), RATE)


def test_a_folder_with_a_plugins_task_gives_its_model(nets: dict[str, Net], tmp_path: Path) -> None:
    model = sk.build(nets["frame"])
    sk.save(model, tmp_path / "mine")
    plan = replace(plan_of(model), facts=facts_of(model, tmp_path / "mine"))
    plan.save(tmp_path / "mine" / PLAN)
    assert isinstance(resolve(tmp_path / "mine"), Plan)
    replace(plan, about=replace(plan.about, task="acme/angle")).save(tmp_path / "mine" / PLAN)
    assert isinstance(resolve(tmp_path / "mine"), sk.Model)
    assert isinstance(resolve(tmp_path / "mine" / PLAN), Plan)


BUNDLED = Path(sk.__file__).parent / "bundled" / "models"


@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_an_implementation_that_is_asked_for_computes_a_named_model(impl: str) -> None:
    with use_impl(impl):
        sessions = sk.stream("vad"), sk.StreamBatch(BUNDLED / "vad", 2), sk.SessionPool("vad", 2)
        detector = sk.stream("an4").model
    reason = f"torch: implementation {impl!r} was asked for"
    assert [session.backend for session in sessions] == [reason] * 3
    assert isinstance(detector, sk.Model)
    with use_impl("cpu"):
        assert sk.stream("vad").backend == "native"


def test_what_is_for_torch_refuses_a_plan_in_one_line(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / PLAN)
    for source in (plan, tmp_path / PLAN):
        line = "is for models in torch, and a plan computes in C.. on the CPU; give the model"
        with use_impl("torch"), pytest.raises(ConfigError, match=f"implementation 'torch' {line}"):
            sk.stream(source)
        with pytest.raises(ConfigError, match=f"impl='torch' {line}"):
            sk.SessionPool(source, 2, impl="torch")
        with pytest.raises(ConfigError, match=f"precision='bfloat16' {line}"):
            sk.SessionPool(source, 2, precision="bfloat16")
        with pytest.raises(ConfigError, match=f"an approximate stream {line}"):
            sk.stream(source, window_s=1.0)
    with pytest.raises(CheckpointError, match=r"no\.safetensors cannot be read: No such file"):
        sk.stream(tmp_path / "no.safetensors")


@pytest.mark.parametrize("precision", ["float16", None])
def test_a_pool_names_its_precisions(nets: dict[str, Net], precision: str | None) -> None:
    with pytest.raises(ConfigError, match=f"precision={precision!r}: give one of float32, bfloat"):
        sk.SessionPool(sk.build(nets["frame"]), 2, precision=precision)  # type: ignore[arg-type]
