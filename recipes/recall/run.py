"""What a net remembers: a causal net whose convolutions see less of the past than the gap.

    python recipes/recall/prepare.py data/recall [FOLDER]
    python recipes/recall/run.py --out runs/recall

`judge.py` trains it with another layer in the row under test and prints the AUC that counts.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.models.net import Block
from speechkit.train import Data, Run

DATA = Path("data/recall")
ROW = 2
"""The index of the row under test in `model.blocks`."""


def base() -> Run:
    """A net of convolutions only, which see 0.6 s of the past; the gap is at least 0.8 s.

    The statistics of the front end are fixed, since those of a recording or of the past so far
    would carry the first word over the gap.
    """
    row = Block(channels=64, kernel=5, residual=True)
    return Run(
        model=sk.MarbleNet(
            frame_level=True,
            blocks=(
                Block(channels=64, kernel=5, stride=2),
                row,
                row,
                row,
                Block(channels=64, kernel=1, separable=False),
            ),
            sample_rate=8000,
            frontend="log_mel:n_mels=32,window_s=0.04,hop_s=0.02,normalize=fixed",
            lookahead=0,
        ),
        data=Data(
            train=DATA / "train.jsonl",
            dev=DATA / "dev.jsonl",
            batch_size=64,
            buckets=1,
            cache=True,
        ),
        optimizer="adamw:lr=0.005,weight_decay=0.01",
        schedule="cosine:warmup=0.05",
        augment=("equalize:max_db=8", "gain:min_db=-20,max_db=10"),
        clip_norm=1.0,
        steps=200,
        eval_every=200,
        save_every=200,
    )


def tiny() -> Run:
    """A step of the same net, for tests."""
    return replace(base(), steps=1, eval_every=1, save_every=1)


if __name__ == "__main__":
    sk.cli.recipe(globals())
