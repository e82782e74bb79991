"""One of two processes that carry out the run of FOLDER/run.json, at once and in two parts.

python -m torch.distributed.run --nproc-per-node 2 -m speechkit.testing.pair FOLDER
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from speechkit.config import from_dict
from speechkit.io.untrusted import read_json
from speechkit.train import Run, fit

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    run = from_dict(Run, read_json(folder / "run.json"))
    fit(run, folder / "at_once", device="cpu")
    fit(replace(run, steps=run.steps // 2), folder / "halted", device="cpu")
    fit(run, folder / "halted", resume=True, device="cpu")
