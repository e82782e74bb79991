"""Training: what a run is (`run.py`), the loop (`loop.py`), what a method may do in it
(`method.py`), and runs one after the other (`pipeline.py`)."""

from speechkit.train.loop import dry_run, fit
from speechkit.train.method import Method
from speechkit.train.pipeline import Pipeline
from speechkit.train.run import Data, Run

__all__ = ["Data", "Method", "Pipeline", "Run", "dry_run", "fit"]
