"""English with a streaming QuartzNet 15x5; its teacher is one that reads whole utterances.

    python recipes/an4/prepare.py data/an4 [FOLDER]
    python recipes/english/prepare.py data/english FOLDER runs/teacher
    python recipes/english/run.py --out runs/english

See README.md for the teacher and the transform that writes runs/student, and RESULTS.md for the
results.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.train import Data, Run

DATA = Path("data/english")
STEM_AHEAD, AHEAD, LAST_AHEAD = 5, 2, 4
"""The look-ahead of each convolution, in frames of 10 ms in the stem and of 20 ms after it."""


def student() -> sk.QuartzNet:
    """QuartzNet 15x5 without the taps beyond this look-ahead: 3.1 s in total."""
    groups = ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75))
    blocks = (
        sk.Block(channels=256, kernel=33 // 2 + 1 + STEM_AHEAD, stride=2),
        *(
            sk.Block(channels=c, kernel=k // 2 + 1 + AHEAD, repeat=5, residual=True, copies=3)
            for c, k in groups
        ),
        sk.Block(channels=512, kernel=87 // 2 + 1 + LAST_AHEAD // 2, dilation=2),
        sk.Block(channels=1024, kernel=1, separable=False),
    )
    return sk.QuartzNet(
        blocks=blocks,
        lookahead=(STEM_AHEAD, *(AHEAD,) * 15, LAST_AHEAD, 0),
        frontend="log_mel:normalize=running",
    )


def base() -> Run:
    """The student, trained on its teacher's output at each frame and on the transcripts."""
    return Run(
        model=student(),
        data=Data(
            train=(DATA / "train.jsonl", DATA / "train_taught.jsonl", Path("data/an4/train.jsonl")),
            dev=DATA / "dev.jsonl",
            batch_size=None,
            batch_seconds=64.0,
            cache=True,
        ),
        optimizer="adamw:lr=0.0005,weight_decay=0.01",
        schedule="cosine:warmup=0.03,floor=0.02",
        augment=(
            "gain:min_db=-10,max_db=6",
            "spec_augment:freq_masks=2,freq_width=10,time_masks=2,time_width=10",
        ),
        method=("distill:teacher=runs/teacher,cache=runs/english_teacher.safetensors",),
        start_from=Path("runs/student"),
        clip_norm=1.0,
        ema=0.99,
        precision="bf16-mixed",
        steps=1100,
        eval_every=100,
        save_every=50,
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
        start_from=None,
        steps=2,
        eval_every=2,
        save_every=2,
    )


if __name__ == "__main__":
    sk.cli.recipe(globals())
