"""The runs of the deeper net, which begin as the average before it.

    python recipes/an4/deep.py --out runs/an4_beside

See README.md for what comes before, and for the other two.
"""

from dataclasses import replace
from pathlib import Path

import run as shallow
from again import base as before

import speechkit as sk
from speechkit.train import Run

PLACE = 5
"""Where the new block is in the encoder: before the dilated one."""
BLOCKS = (
    *shallow.BLOCKS[: PLACE + 1],
    sk.Block(channels=256, kernel=23, repeat=3, residual=True),
    *shallow.BLOCKS[PLACE + 1 :],
)
LOOKAHEAD = (*shallow.LOOKAHEAD[: PLACE + 1], 0, *shallow.LOOKAHEAD[PLACE + 1 :])
DATA = shallow.DATA


def base() -> Run:
    """Letters, and phones beside them in the middle, of other English too."""
    run = more()
    own, spliced = DATA / "train_both.jsonl", DATA / "spliced_both.jsonl"
    return replace(
        run,
        data=replace(
            run.data, train=(own,) * 6 + (spliced, DATA / "english_phones.jsonl"), buckets=20
        ),
        method=("phones:after=3,weight=0.3",),
        optimizer="adamw:lr=0.001,weight_decay=0.02",
        steps=3500,
        seed=8,
    )


def again() -> Run:
    """The same from the average of both, for a shorter time."""
    return replace(
        base(),
        init=Path("runs/an4_avg3"),
        optimizer="adamw:lr=0.0008,weight_decay=0.02",
        steps=2200,
        seed=11,
    )


def more() -> Run:
    """Letters alone."""
    run = before()
    return replace(
        run,
        model=replace(run.model, blocks=BLOCKS, lookahead=LOOKAHEAD),
        data=replace(
            run.data, train=(DATA / "train.jsonl",) * 6 + (DATA / "spliced.jsonl",), buckets=20
        ),
        init=Path("runs/an4_deep"),
        optimizer="adamw:lr=0.0008,weight_decay=0.03",
        steps=2800,
        eval_every=400,
        seed=9,
    )


if __name__ == "__main__":
    sk.cli.recipe(globals())
