"""AN4 with a small QuartzNet: letters, digits and commands, streaming with a second's look-ahead.

    python recipes/an4/prepare.py data/an4 [FOLDER]
    python recipes/an4/run.py --out runs/an4

See RESULTS.md for what it reached.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.train import Data, Run

DATA = Path("data/an4")

BLOCKS = (
    sk.Block(channels=192, kernel=11, stride=2),
    *(
        sk.Block(channels=192, kernel=kernel, repeat=3, residual=True)
        for kernel in (13, 15, 17, 19, 21)
    ),
    sk.Block(channels=256, kernel=25, dilation=2),
    sk.Block(channels=384, kernel=1, separable=False),
)


def base() -> Run:
    """1.2 M parameters; each convolution looks 3 frames ahead."""
    return Run(
        model=sk.QuartzNet(
            blocks=BLOCKS, lookahead=3, frontend="log_mel:normalize=running", dropout=0.1
        ),
        data=Data(train=DATA / "train.jsonl", dev=DATA / "dev.jsonl", batch_size=16, cache=True),
        optimizer="adamw:lr=0.002,weight_decay=0.01",
        schedule="cosine:warmup=0.05,floor=0.01",
        augment=(
            "gain:min_db=-10,max_db=6",
            "speed:min=0.9,max=1.1",
            "spec_augment:freq_masks=2,freq_width=12,time_masks=2,time_width=20",
        ),
        clip_norm=1.0,
        ema=0.995,
        steps=3000,
        eval_every=200,
        save_every=200,
    )


def causal() -> Run:
    """The same without look-ahead."""
    run = base()
    return replace(run, model=replace(run.model, lookahead=0))


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    blocks = (
        sk.Block(channels=16, kernel=11, stride=2),
        sk.Block(channels=16, kernel=13, repeat=2, residual=True),
        sk.Block(channels=32, kernel=1, separable=False),
    )
    run = base()
    model = replace(run.model, blocks=blocks)
    return replace(run, model=model, steps=2, eval_every=2, save_every=2)


if __name__ == "__main__":
    sk.cli.recipe(globals())
