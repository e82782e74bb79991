"""Plan files: what is saved comes back, and damaged or foreign files are refused in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import speechkit as sk
from speechkit.config import to_dict
from speechkit.errors import CheckpointError, ConfigError
from speechkit.io.folders import CONFIG, PLAN, WEIGHTS
from speechkit.models import Model, Net
from speechkit.plans.about import About, Facts
from speechkit.plans.plan import KEY, Plan, load_plan
from speechkit.plans.program import CODES, FIELDS
from speechkit.plans.source import as_plan, resolve
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing
from speechkit.tasks.plans import about_of, facts_of, plan_of

BUNDLED = Path(sk.__file__).parent / "bundled" / "models"


@pytest.fixture
def plan(nets: dict[str, Net]) -> Plan:
    chance = np.random.default_rng(0)
    return Plan(
        about_of(sk.build(nets["frame"])),
        program=chance.integers(-9, 9, (5, 18)),
        weights=chance.normal(size=100).astype(np.float32),
    )


def metadata(about: Any, **more: Any) -> dict[str, str]:

    return {KEY: json.dumps({"format": 1, "about": to_dict(about), **more})}


def test_a_plan_comes_back_and_is_written_with_the_same_bytes(plan: Plan, tmp_path: Path) -> None:
    full = replace(plan, clip_program=plan.program[:2], facts=facts_of(sk.load("vad")))
    full.save(tmp_path / "a.safetensors")
    again = load_plan(tmp_path / "a.safetensors")
    assert (again.about, again.facts) == (full.about, full.facts)
    for name in ("program", "weights", "clip_program"):
        np.testing.assert_array_equal(getattr(again, name), getattr(full, name))
    assert again.digest == full.digest
    again.save(tmp_path / "b.safetensors")
    first, second = (tmp_path / f"{name}.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_plan_says_what_its_model_says() -> None:
    for name in ("vad", "digits", "an4"):
        model = sk.load(name)
        about = about_of(model)
        assert about.frame_s == model.frame_s
        assert about.labels == model.labels
        assert about.delay * about.frame_s == pytest.approx(model.latency_s)
        assert (about.postprocess is not None) == (name == "vad")
        if isinstance(model.config, sk.MatchboxNet):
            assert about.window_s == model.config.spotting.window_s > 0


def test_rules_change_as_those_of_a_model_do(plan: Plan) -> None:
    changed = plan.with_(postprocess={"onset": 0.25})
    assert changed.about.postprocess == PostProcessing(onset=0.25, offset=0.175)
    assert changed.digest == plan.digest
    assert plan.about.postprocess == PostProcessing()
    with pytest.raises(ConfigError, match="a marblenet has no spotting; give postprocess"):
        plan.with_(spotting={"threshold": 0.5})
    with pytest.raises(ConfigError, match=r"postprocess.onset|onset=7"):
        plan.with_(postprocess={"onset": 7.0})


def test_the_window_of_a_plan_of_clips_stays(plan: Plan, nets: dict[str, Net]) -> None:
    clips = replace(plan, about=about_of(sk.build(nets["clip"])))
    assert clips.with_(spotting={"threshold": 0.5}).about.spotting == Spotting(threshold=0.5)
    with pytest.raises(ConfigError, match="window_s=2: this plan was made for 1; change it in"):
        clips.with_(spotting={"window_s": 2.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": None}, "it lacks 'program'"),
        ({"weights": np.zeros(3)}, "'weights' is F64"),
        ({"weights": np.zeros((3, 1), np.float32)}, "'weights' is F32 .3, 1.; a plan's is F32"),
        ({"program": np.zeros((0, 18), np.int64)}, "the first from 1 to"),
        ({"program": np.zeros((1, 18), np.int32)}, "'program' is I32"),
        ({"program": np.zeros((1, 17), np.int64)}, "has instructions of 17 numbers, this version"),
        ({"clip_program": np.zeros((1, 19), np.int64)}, "has instructions of 19 numbers"),
        ({"more": np.zeros(1, np.float32)}, "holds 'more', which is no part of a plan"),
    ],
    ids=str,
)
def test_other_tensors_are_refused(
    plan: Plan, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    tensors = {"program": plan.program, "weights": plan.weights, **change}
    given = {name: array for name, array in tensors.items() if array is not None}
    save_file(given, tmp_path / PLAN, metadata(plan.about))
    with pytest.raises(CheckpointError, match=message) as raised:
        load_plan(tmp_path / PLAN)
    assert len(str(raised.value)) < 450


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 7}, "sample_rate=7: give a number from 4000 to 384000"),
        ({"labels": []}, "number of labels=0"),
        ({"stride": 0}, "stride=0"),
        ({"delay": 10**6}, "delay in seconds=20000"),
        ({"block_s": 0}, "block_s=0"),
        ({"window_s": -1.0}, "window_s=-1: give seconds above 0"),
        ({"rate": "a"}, "about.rate"),
        ({"postprocess": {"onset": 2}}, "onset=2, offset=0.35: give 0 <="),
        ({"postprocess": {"high": 2}}, "about.postprocess.high"),
        ({"unknown": 1}, "about.unknown"),
    ],
    ids=str,
)
def test_other_numbers_are_refused(
    plan: Plan, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    described = json.loads(metadata(plan.about)[KEY])
    described["about"] |= change
    tensors = {"program": plan.program, "weights": plan.weights}
    save_file(tensors, tmp_path / PLAN, {KEY: json.dumps(described)})
    with pytest.raises(CheckpointError, match=message) as raised:
        load_plan(tmp_path / PLAN)
    assert len(str(raised.value)) < 450


def test_files_of_other_kinds_are_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no plan; write one with: speechkit export"):
        load_plan(BUNDLED / "vad" / WEIGHTS)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        load_plan(tmp_path / PLAN)
    save_file({"program": plan.program}, tmp_path / PLAN, {KEY: '{"format": 2}'})
    with pytest.raises(CheckpointError, match="has format 2; this version reads 1: pip install"):
        load_plan(tmp_path / PLAN)
    save_file({"program": plan.program}, tmp_path / PLAN, {KEY: "{"})
    with pytest.raises(CheckpointError, match=r"describes no model: it is not JSON.*; write one"):
        load_plan(tmp_path / PLAN)
    (tmp_path / PLAN).write_bytes((2**24).to_bytes(8, "little") + b" " * 2**24)
    with pytest.raises(CheckpointError, match=r"a header of 16,777,216 bytes.*; write one with"):
        load_plan(tmp_path / PLAN)
    plan.save(tmp_path / PLAN)
    for damaged in (b"RIFF", (tmp_path / PLAN).read_bytes()[:-1]):
        (tmp_path / PLAN).write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"no plan or damaged: .*; write one with: speech"
        ):
            load_plan(tmp_path / PLAN)


def test_a_plan_with_layers_that_it_does_not_hold_is_refused(nets: dict[str, Net]) -> None:
    plan = plan_of(sk.build(nets["frame"]))
    calling = plan.program.copy()
    calling[-1, FIELDS.index("code")] = CODES.index("call")
    with pytest.raises(CheckpointError, match="this plan calls layers that it does not hold"):
        replace(plan, program=calling).laid_out(1)


@pytest.fixture
def folder(plan: Plan, tmp_path: Path) -> Path:
    """A model folder with a plan."""
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED / "vad", folder)
    (folder / PLAN).unlink(missing_ok=True)
    replace(plan, facts=facts_of(sk.load("vad"), folder)).save(folder / PLAN)
    return folder


def test_a_plan_is_found_in_a_folder_and_as_a_file(folder: Path) -> None:
    for source in (folder, str(folder), folder / PLAN, str(folder / PLAN)):
        assert as_plan(source) is not None
    plan = load_plan(folder / PLAN)
    assert as_plan(plan) is plan
    (folder / PLAN).unlink()
    assert as_plan(folder) is None
    assert as_plan(sk.load("vad")) is None
    with pytest.raises(CheckpointError, match="no model folder 'nothing'"):
        as_plan("nothing")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_plan_of_other_files_is_not_used(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert as_plan(folder) is None
    assert "is of another model than the files beside it" in caplog.text


def test_a_model_saved_over_another_leaves_no_plan(folder: Path) -> None:
    sk.save(sk.load("vad"), folder)
    assert not (folder / PLAN).exists()
    assert (folder / "README.md").exists()


def test_what_a_plan_is_about_tells_the_right_verb(plan: Plan) -> None:
    with pytest.raises(ConfigError, match=r"this marblenet cannot classify; use sk.detect or"):
        plan.about.require("classify")
    plan.about.require("detect")
    assert isinstance(plan.about, About)
    assert Facts.__dataclass_fields__.keys() >= {"profile", "card"}


def test_without_an_engine_a_bundled_model_runs_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(resolve("vad"), Plan)
    monkeypatch.setattr("speechkit.plans.source.library", lambda: "no C++ compiler")
    assert isinstance(resolve("vad"), Model)
    monkeypatch.setattr("speechkit.plans.source.has_torch", lambda: False)
    assert isinstance(resolve("vad"), Plan)
