"""One of two processes that train the runs of RUNS.json, one after the other.

python -m torch.distributed.run --nproc-per-node 2 -m speechkit.testing.pair RUNS.json
"""

import sys
from pathlib import Path

import torch

from speechkit.config import from_dict
from speechkit.errors import SpeechkitError
from speechkit.io.untrusted import read_json
from speechkit.train import Run, fit

if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        for run, out, resume in read_json(Path(sys.argv[1])):
            fit(from_dict(Run, run), out, resume, device="cpu")
    except SpeechkitError as error:
        sys.exit(f"error: {error}")
