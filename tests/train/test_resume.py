"""The folder of a run is one process's at a time, and what is no run's in it is left alone."""

import multiprocessing
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from speechkit.errors import TrainingError
from speechkit.io.files import PART, atomic_folder
from speechkit.train.resume import BEST, LAST, RUN, open_folder

ALONE = SimpleNamespace(is_global_zero=True, rank_zero_first=nullcontext)


def contents(folder: Path) -> dict[str, str | None]:
    paths = sorted(folder.rglob("*"))
    return {str(p): p.read_text() if p.is_file() else None for p in paths}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run's folder, whose name is a pattern, beside folders that it would match."""
    for name in ("run [1] *", "run 1 x"):
        for kept in (".best.backup", ".last.1", ".run"):
            (tmp_path / name / kept).mkdir(parents=True)
    return tmp_path / "run [1] *"


def started(out: Path) -> None:
    (out / RUN).write_text("{}")
    (out / LAST).mkdir()
    (out / LAST / "config.json").write_text("{}")


def test_a_second_process_fails_while_a_folder_is_in_use(out: Path) -> None:
    started(out)
    with (
        open_folder(out, True, ALONE) as goes_on,
        atomic_folder(out / LAST, ["config.json"]) as new,
    ):
        assert goes_on
        (new / "config.json").write_text("half")
        before = contents(out)
        for resume in (False, True):
            with (
                pytest.raises(TrainingError, match=r"is in use, .* or choose another --out"),
                open_folder(out, resume, ALONE),
            ):
                pass
        assert contents(out) == before
    with open_folder(out, True, ALONE):
        pass


def test_what_a_killed_run_was_writing_is_ended_and_nothing_else_is_touched(out: Path) -> None:
    def run() -> None:
        with open_folder(out, False, ALONE), atomic_folder(out / BEST) as part:
            (part / "config.json").write_text("half")
            (out / RUN).write_text("{}")
            os.kill(os.getpid(), signal.SIGKILL)

    before = contents(out.parent)
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [p for p in out.iterdir() if p.name.startswith(PART)]
    with open_folder(out, True, ALONE) as goes_on:
        assert not goes_on
    assert contents(out.parent) == before | {str(out / RUN): "{}"}


@pytest.mark.parametrize("name", [LAST, BEST, "metrics.jsonl"])
def test_a_start_does_not_write_over_what_is_there(out: Path, name: str) -> None:
    (out / name).write_text("mine")
    before = contents(out)
    with (
        pytest.raises(TrainingError, match=f"holds {name} of no run that could go on"),
        open_folder(out, False, ALONE),
    ):
        pass
    assert contents(out) == before


def test_a_best_model_without_a_state_is_not_written_over(out: Path) -> None:
    (out / RUN).write_text("{}")
    (out / BEST).mkdir()
    with (
        pytest.raises(TrainingError, match="holds best of no run that could go on"),
        open_folder(out, True, ALONE),
    ):
        pass


def test_a_run_that_ends_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_folder(tmp_path / "out", False, ALONE):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
