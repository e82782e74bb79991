"""Training: the settings of a run (`run.py`), the loop (`loop.py`), the interface of training
methods (`method.py`), and sequences of runs (`pipeline.py`)."""

import speechkit.torch_required

from speechkit.train.loop import dry_run, fit
from speechkit.train.method import Method
from speechkit.train.pipeline import Pipeline
from speechkit.train.run import Data, Run

__all__ = ["Data", "Method", "Pipeline", "Run", "dry_run", "fit"]
