"""A plan gives a recording the scores of its model, however the recording comes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import speechkit as sk
from speechkit.errors import AudioError, CheckpointError
from speechkit.models import Net
from speechkit.plans.plan import Plan
from speechkit.plans.scorer import PlanScorer
from speechkit.scoring import ModelScorer
from speechkit.tasks.plans import plan_of

RATE = 16000


def sound(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-0.2, 0.2, samples).astype(np.float32)


@pytest.mark.parametrize("samples", [160, 5000, 16000, 40001])
def test_scores_are_those_of_the_model(model: sk.Model, plan: Plan, samples: int) -> None:
    x = sound(samples)
    if plan.about.per_clip:
        expected = ModelScorer(model).clips(x[None])
        found = PlanScorer(plan).clips(x[None])
    else:
        expected = np.concatenate([*ModelScorer(model).parts([x])])
        found = np.concatenate([*PlanScorer(plan).parts([x])])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_blocks_of_any_size_give_the_same_bits(plan: Plan) -> None:
    x, scorer = sound(40001), PlanScorer(plan)
    whole = np.concatenate([*scorer.parts([x])])
    cuts = [0, 1, 1280, 20000, 20000, 39999]
    np.testing.assert_array_equal(np.concatenate([*scorer.parts(np.split(x, cuts))]), whole)


def test_a_recording_shorter_than_a_frame_is_refused(plan: Plan) -> None:
    for blocks in ([], [sound(0)], [sound(100), sound(59)]):
        with pytest.raises(AudioError, match="are less than one frame; give at least 160"):
            list(PlanScorer(plan).parts(blocks))


def test_scores_that_are_no_numbers_are_refused(plan: Plan) -> None:
    large = replace(plan, weights=np.where(plan.weights > 0.1, np.float32(1e18), plan.weights))
    with pytest.raises(CheckpointError, match="gives NaN or infinity for this sound"):
        list(PlanScorer(large).parts([sound(RATE)]))
    infinite = replace(plan, weights=np.full_like(plan.weights, np.inf))
    with pytest.raises(CheckpointError, match="its weights hold NaN or infinity"):
        PlanScorer(infinite)


def test_a_plan_about_other_scores_is_refused(plan: Plan) -> None:
    more = replace(plan.about, labels=(*plan.about.labels, "more"))
    with pytest.raises(CheckpointError, match=r"and is about .*; export the model again"):
        PlanScorer(replace(plan, about=more))


def test_verbs_take_plans(nets: dict[str, Net], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(20000), RATE)
    for task, verb in (("ctc", sk.transcribe), ("clip", sk.classify), ("frame", sk.detect)):
        model = sk.build(nets[task]).eval()
        plan = plan_of(model)
        plan.save(tmp_path / "plan.safetensors")
        for source in (plan, tmp_path / "plan.safetensors"):
            found, expected = verb(source, tmp_path / "a.wav"), verb(model, tmp_path / "a.wav")
            if task == "clip":
                assert found.scores == pytest.approx(expected.scores, abs=1e-5)
            elif task == "frame":
                assert found == expected
            else:
                assert found.text == expected.text


PEAK = """
import sys
from pathlib import Path
sys.modules["torch"] = None
from speechkit.cli.main import run
assert run(["vad", sys.argv[1]]) == 0
# getrusage begins with the memory of the process that started this one
(line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
print(int(line.split()[1]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_hour_needs_less_than_120_megabytes(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", RATE, 1, "PCM_16") as file:
        for seed in range(60):
            file.write(sound(60 * RATE, seed))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "hour.wav")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 120
