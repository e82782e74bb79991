"""AN4 with a small QuartzNet: letters, digits and commands, streaming.

    python recipes/an4/run.py --out runs/an4_base

See README.md for the other runs, before it and behind, and RESULTS.md for what they reached.
"""

from dataclasses import replace
from pathlib import Path

from phones import SYMBOLS

import speechkit as sk
from speechkit.train import Data, Run

DATA = Path("data/an4")

BLOCKS = (
    sk.Block(channels=256, kernel=11, stride=2),
    *(
        sk.Block(channels=256, kernel=kernel, repeat=3, residual=True)
        for kernel in (13, 15, 17, 19, 21)
    ),
    sk.Block(channels=256, kernel=25, dilation=2),
    sk.Block(channels=512, kernel=1, separable=False),
)
LOOKAHEAD = (3, 1, 1, 1, 1, 1, 2, 0)
"""0.36 s in all: the stem's frames are 10 ms, those behind it 20 ms."""


def base() -> Run:
    """Words, after the phones: AN4's own and spliced ones."""
    own = DATA / "train.jsonl"
    return Run(
        model=sk.QuartzNet(
            blocks=BLOCKS, lookahead=LOOKAHEAD, frontend="log_mel:normalize=running"
        ),
        data=Data(
            train=(own, own, own, DATA / "spliced.jsonl"),
            dev=DATA / "dev.jsonl",
            batch_size=None,
            batch_seconds=64.0,
            buckets=12,
            cache=True,
        ),
        init=Path("runs/an4_phones/best"),
        optimizer="adamw:lr=0.0012,weight_decay=0.01",
        schedule="cosine:warmup=0.05,floor=0.01",
        augment=(
            "gain:min_db=-12,max_db=6",
            "speed:min=0.85,max=1.2",
            "equalize:max_db=6,probability=0.3",
            "spec_augment:freq_masks=2,freq_width=10,time_masks=2,time_width=12",
        ),
        clip_norm=1.0,
        ema=0.999,
        precision="bf16-mixed",
        steps=6000,
        eval_every=500,
        save_every=250,
    )


def hard() -> Run:
    """Words again, from what `base` learnt, in sound that is harder to hear."""
    run = base()
    return replace(
        run,
        model=replace(run.model, dropout=0.1),
        init=Path("runs/an4_base/best"),
        optimizer="adamw:lr=0.001,weight_decay=0.01",
        augment=(
            "gain:min_db=-20,max_db=6",
            "speed:min=0.8,max=1.3",
            "equalize:max_db=8,probability=0.5",
            "white_noise:min_db=-80,max_db=-50",
            "spec_augment:freq_masks=2,freq_width=14,time_masks=3,time_width=14",
        ),
        steps=4500,
    )


def phones() -> Run:
    """Phones of AN4 and of other English, from the flat start."""
    run, own = base(), DATA / "phones.jsonl"
    return replace(
        run,
        model=replace(run.model, labels=tuple(SYMBOLS.values()), normalization="none"),
        data=replace(
            run.data,
            train=(own, own, own, DATA / "other_phones.jsonl"),
            dev=DATA / "dev_phones.jsonl",
            buckets=20,
        ),
        init=Path("runs/an4_flat/best"),
        optimizer="adamw:lr=0.002,weight_decay=0.01",
        schedule="cosine:warmup=0.03,floor=0.02",
        ema=0.998,
        steps=4500,
    )


def flat() -> Run:
    """Short utterances in phones, each phone with an equal share of the speech beside CTC."""
    run = phones()
    return replace(
        run,
        data=replace(
            run.data, train=DATA / "short.jsonl", batch_size=16, batch_seconds=None, buckets=4
        ),
        init=None,
        method=("flat_start",),
        schedule="cosine:warmup=0.1,floor=0.3",
        augment=("gain:min_db=-10,max_db=6",),
        ema=0.98,
        steps=900,
        eval_every=150,
    )


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    blocks = (
        sk.Block(channels=16, kernel=11, stride=2),
        sk.Block(channels=16, kernel=13, repeat=2, residual=True),
        sk.Block(channels=32, kernel=1, separable=False),
    )
    run = base()
    return replace(
        run,
        model=replace(run.model, blocks=blocks, lookahead=1),
        data=replace(run.data, train=DATA / "train.jsonl"),
        init=None,
        steps=2,
        eval_every=2,
        save_every=2,
    )


if __name__ == "__main__":
    sk.cli.recipe(globals())
