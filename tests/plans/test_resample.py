"""A plan at another rate computes what torch does with a resampler in front of the net."""

import numpy as np
import pytest
import torch

import speechkit as sk
from speechkit.frontend import Resample
from speechkit.nn import Chunk, Serial, fuse
from speechkit.nn.lowering import Lowering
from speechkit.plans.plan import Plan
from speechkit.plans.resample import at_rate, phases
from speechkit.plans.scorer import PlanScorer
from speechkit.tasks.plans import plan_of


@pytest.fixture
def plan() -> Plan:
    return plan_of(sk.load("vad"))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_it_is_the_program_of_both_layers(plan: Plan, rate: int) -> None:
    layer = Serial(resample=Resample(rate, 16000), net=sk.load("vad").stream_layer())
    program = Lowering()
    program.add(fuse(layer, "float32"), program.input(layer.stride, 1))
    found = at_rate(plan, rate)
    times = found.about.stride, found.about.rate, found.about.delay
    assert times == (layer.stride, layer.rate, layer.delay)
    # offsets into the weights differ, since these are in another order
    np.testing.assert_array_equal(found.program[:, :-4], program.table[:, :-4])
    assert found.about.frame_s == pytest.approx(plan.about.frame_s)
    assert found.laid_out(2).rows_out == 2 * layer.rate


def test_filters_let_a_constant_pass() -> None:
    for rates in ((44100, 16000), (8000, 16000)):
        filters, stride, rate, _ = phases(*rates)
        assert filters.sum(1) == pytest.approx(1)
        assert len(filters) == rate
        assert rates[0] * rate == rates[1] * stride


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_recording_has_the_scores_of_torch(rate: int) -> None:
    model, plan = sk.load("vad_causal"), plan_of(sk.load("vad_causal"))
    found = at_rate(plan, rate)
    sound = np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
    scores = np.concatenate([*PlanScorer(found).parts([sound])])

    layer = Serial(resample=Resample(rate, 16000), net=model.stream_layer())
    with torch.no_grad():
        expected = layer(Chunk.of(torch.from_numpy(sound)[None, None])).x[0].T.numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5 * np.abs(expected).max())
