"""AN4 with a small QuartzNet: letters, digits and commands, streaming with 0.4 s of look-ahead.

    python recipes/an4/prepare.py data/an4 [FOLDER]
    python recipes/english/prepare.py data/english FOLDER
    python recipes/an4/run.py english --out runs/an4_english
    python recipes/an4/run.py --out runs/an4

See RESULTS.md for what it reached.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.train import Data, Run

DATA, ENGLISH = Path("data/an4"), Path("data/english")

BLOCKS = (
    sk.Block(channels=256, kernel=11, stride=2),
    *(
        sk.Block(channels=256, kernel=kernel, repeat=3, residual=True)
        for kernel in (13, 15, 17, 19, 21)
    ),
    sk.Block(channels=384, kernel=25, dilation=2),
    sk.Block(channels=384, kernel=1, separable=False),
)


def english() -> Run:
    """Letters and words of other corpora beside AN4's, to start from: 1.7 M parameters."""
    return Run(
        model=sk.QuartzNet(
            blocks=BLOCKS,
            lookahead=(3, *(1,) * 5, 2, 0),
            frontend="log_mel:normalize=running",
        ),
        data=Data(
            train=(DATA / "train.jsonl",) * 4 + (ENGLISH / "train.jsonl",),
            dev=DATA / "dev.jsonl",
            batch_size=None,
            batch_seconds=80.0,
            cache=True,
        ),
        optimizer="adamw:lr=0.002,weight_decay=0.01",
        schedule="cosine:warmup=0.05,floor=0.01",
        augment=(
            "gain:min_db=-10,max_db=6",
            "speed:min=0.85,max=1.15",
            "spec_augment:freq_masks=2,freq_width=10,time_masks=2,time_width=20",
        ),
        clip_norm=1.0,
        ema=0.999,
        precision="bf16-mixed",
        steps=7000,
        eval_every=250,
        save_every=100,
    )


def base() -> Run:
    """AN4 alone, from what `english` learned."""
    run = english()
    return replace(
        run,
        data=replace(run.data, train=DATA / "train.jsonl"),
        init=Path("runs/an4_english/best"),
        optimizer="adamw:lr=0.001,weight_decay=0.01",
        steps=3000,
    )


def causal() -> Run:
    """The same without look-ahead, from nothing."""
    run = english()
    return replace(run, model=replace(run.model, lookahead=0))


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    blocks = (
        sk.Block(channels=16, kernel=11, stride=2),
        sk.Block(channels=16, kernel=13, repeat=2, residual=True),
        sk.Block(channels=32, kernel=1, separable=False),
    )
    run = base()
    model = replace(run.model, size="", blocks=blocks, lookahead=1)
    return replace(run, model=model, init=None, steps=2, eval_every=2, save_every=2)


if __name__ == "__main__":
    sk.cli.recipe(globals())
