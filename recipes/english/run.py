"""English with a streaming QuartzNet 5x5 that a QuartzNet 15x5 teaches.

    python recipes/an4/prepare.py data/an4 [FOLDER]
    python recipes/english/prepare.py data/english FOLDER runs/teacher
    python recipes/english/student.py runs/teacher runs/student
    python recipes/english/run.py --out runs/english

See README.md for the teacher and RESULTS.md for what it reached.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.train import Data, Run

DATA = Path("data/english")
AHEAD = 2
"""Frames of 20 ms that each convolution of a block may look ahead."""


def blocks() -> tuple[sk.Block, ...]:
    """QuartzNet's 5x5 with kernels cut off where they look further ahead than they may."""
    groups = ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75))
    return (
        sk.Block(channels=256, kernel=22, stride=2),
        *(
            sk.Block(channels=c, kernel=k // 2 + 1 + AHEAD, repeat=5, residual=True)
            for c, k in groups
        ),
        sk.Block(channels=512, kernel=46, dilation=2),
        sk.Block(channels=1024, kernel=1, separable=False),
    )


def student() -> sk.QuartzNet:
    """6.6 M parameters."""
    return sk.QuartzNet(
        blocks=blocks(),
        lookahead=(5, *(AHEAD,) * 5, 2 * AHEAD, 0),
        frontend="log_mel:normalize=running",
    )


def base() -> Run:
    """The student, by its teacher's frames and by the transcripts."""
    return Run(
        model=student(),
        data=Data(
            train=(DATA / "train.jsonl", DATA / "train_taught.jsonl", Path("data/an4/train.jsonl")),
            dev=DATA / "dev.jsonl",
            batch_size=None,
            batch_seconds=80.0,
            cache=True,
        ),
        optimizer="adamw:lr=0.001,weight_decay=0.01",
        schedule="cosine:warmup=0.03,floor=0.01",
        augment=(
            "gain:min_db=-10,max_db=6",
            "spec_augment:freq_masks=2,freq_width=10,time_masks=2,time_width=20",
        ),
        method=("distill:teacher=runs/teacher,cache=runs/english_teacher.safetensors",),
        init=Path("runs/student"),
        clip_norm=1.0,
        ema=0.999,
        precision="bf16-mixed",
        steps=5000,
        eval_every=250,
        save_every=100,
    )


def tiny() -> Run:
    """A few steps of a net too small to learn, without a teacher, for tests."""
    small = (
        sk.Block(channels=16, kernel=11, stride=2),
        sk.Block(channels=16, kernel=13, repeat=2, residual=True),
        sk.Block(channels=32, kernel=1, separable=False),
    )
    run = base()
    return replace(
        run,
        model=replace(run.model, size="", blocks=small, lookahead=AHEAD),
        data=replace(run.data, train=DATA / "train.jsonl"),
        method=(),
        init=None,
        steps=2,
        eval_every=2,
        save_every=2,
    )


if __name__ == "__main__":
    sk.cli.recipe(globals())
