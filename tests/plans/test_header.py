"""The C header: a program in C runs a plan, and gets the scores of a session."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import speechkit as sk
from speechkit.nn import fuse
from speechkit.nn.lowering import Lowering
from speechkit.plans.engine import SOURCE, LoadedPlan, Steps, library
from speechkit.plans.program import FIELDS

COMPILER = shutil.which("cc")


@pytest.mark.skipif(COMPILER is None or isinstance(library(), str), reason="there is no C compiler")
def test_a_c_program_gets_the_scores_of_a_session(tmp_path: Path) -> None:
    assert COMPILER is not None
    engine = library()
    assert not isinstance(engine, str)
    layer = sk.build(sk.MarbleNet(frame_level=True, lookahead=1)).eval().stream_layer()
    program = Lowering()
    program.add(fuse(layer), program.input(layer.stride, 1))
    assert f"enum {{ FIELDS = {len(FIELDS)} }}" in Path(__file__).with_name("step.c").read_text()
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 60 * layer.stride).astype(np.float32)
    arrays = program.table, program.weights.array, x
    paths = [tmp_path / name for name in ("program", "weights", "sound")]
    for array, path in zip(arrays, paths, strict=True):
        array.tofile(path)
    step = tmp_path / "step"
    source = str(Path(__file__).with_name("step.c"))
    flags = "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{SOURCE.parent}"
    subprocess.run([COMPILER, *flags, source, engine._name, "-o", str(step)], check=True)
    found = subprocess.run([step, *paths, str(layer.stride)], check=True, capture_output=True)

    plan = LoadedPlan(*arrays[:2], layer.stride, 1, 1)
    steps, scores = Steps(plan, plan.new_states(1), 1, 1), []
    for part in x.reshape(-1, layer.stride):
        steps(part[None])
        scores.append(steps.y[0, 0][steps.valid[0, 0]].copy())
    assert np.array_equal(np.frombuffer(found.stdout, np.float32), np.concatenate(scores).ravel())
