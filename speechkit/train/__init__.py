"""Training: what a run is (`run.py`) and the loop that carries it out (`loop.py`)."""

from speechkit.train.loop import dry_run, fit
from speechkit.train.run import Data, Run

__all__ = ["Data", "Run", "dry_run", "fit"]
