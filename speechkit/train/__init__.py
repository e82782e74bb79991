"""Training: what a run is (`run.py`), the loop (`loop.py`) and what a method may do in it
(`method.py`)."""

from speechkit.train.loop import dry_run, fit
from speechkit.train.method import Method
from speechkit.train.run import Data, Run

__all__ = ["Data", "Method", "Run", "dry_run", "fit"]
