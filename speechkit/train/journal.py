"""The log of a run: a progress bar, JSON lines and TensorBoard."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from speechkit.errors import MissingExtraError, TrainingError
from speechkit.io.files import atomic_file
from speechkit.io.untrusted import UntrustedError, parse_json

FILE = "metrics.jsonl"


class Journal:
    """Writes figures of each step to `metrics.jsonl` and TensorBoard, and shows a progress bar.

    Figures of steps after `start`, and of evaluations after step `judged`, are removed first.
    """

    def __init__(self, out: Path, steps: int, start: int = 0, judged: int = 0) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "train") from error
        self.path = out / FILE
        _forget_after(self.path, start, judged)
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[latest]}"),
            TimeRemainingColumn(),
        )
        self.task = self.bar.add_task("training", total=steps, completed=start, latest="")

    def __enter__(self) -> "Journal":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.bar.stop()
        self.board.close()

    def advance(self, step: int, loss: float) -> None:
        """Moves the bar to `step`."""
        self.bar.update(self.task, completed=step, latest=f"loss {loss:.3f}")

    def log(self, step: int, **figures: Any) -> None:
        """Writes figures of one step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)
        # TensorBoard writes in a thread: if the run is killed after it saves this step, the figures
        # must be there
        self.board.flush()
        if "loss" not in figures:
            line = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.bar.console.print(f"step {step}: {line}")


class NullJournal:
    """The journal of all processes but the first: it writes nothing."""

    def __enter__(self) -> "NullJournal":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, step: int, loss: float) -> None:
        """Does nothing."""

    def log(self, step: int, **figures: Any) -> None:
        """Does nothing."""


def _forget_after(path: Path, step: int, judged: int) -> None:
    """Removes the lines of steps that will be run or evaluated again, and an incomplete last line.

    The file is replaced atomically.
    """
    if path.exists():
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            ended = [line for line in lines if line.endswith("\n")]
            rows = {line: parse_json(line, any_number=True) for line in ended}
            kept = [
                line
                for line, row in rows.items()
                if row["step"] <= (step if "loss" in row else judged)
            ]
        except (UnicodeDecodeError, UntrustedError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path} is not a run's figures: {error}; move it elsewhere to go on"
            ) from error
        with atomic_file(path) as part:
            part.write_text("".join(kept), "utf-8")
