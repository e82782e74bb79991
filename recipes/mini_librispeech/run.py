"""Five hours of English on two cores with a small QuartzNet that streams.

    python recipes/mini_librispeech/prepare.py data/mini_librispeech [FOLDER]
    python recipes/mini_librispeech/run.py --out runs/mini_librispeech

See RESULTS.md for the measured runs.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.train import Data, Run

DATA = Path("data/mini_librispeech")

BLOCKS = (
    sk.Block(channels=256, kernel=22, stride=2),
    *(
        sk.Block(channels=256, kernel=kernel, repeat=5, residual=True)
        for kernel in (19, 22, 28, 34, 40)
    ),
    sk.Block(channels=512, kernel=46, dilation=2),
    sk.Block(channels=512, kernel=1, separable=False),
)


def base() -> Run:
    """Five blocks of 256 channels, one frame of look-ahead per convolution; batches of 80 s."""
    return Run(
        model=sk.QuartzNet(
            blocks=BLOCKS,
            lookahead=(5, *(1,) * 5, 2, 0),
            frontend="log_mel:normalize=running",
        ),
        data=Data(
            train=DATA / "train.jsonl",
            dev=DATA / "dev.jsonl",
            batch_size=None,
            batch_seconds=80.0,
            cache=True,
        ),
        optimizer="adamw:lr=0.002,weight_decay=0.01",
        schedule="cosine:warmup=0.05,floor=0.01",
        augment=(
            "speed:min=0.85,max=1.15",
            "spec_augment:freq_masks=2,freq_width=10,time_masks=2,time_width=20",
        ),
        clip_norm=1.0,
        ema=0.999,
        precision="bf16-mixed",
        steps=10000,
        eval_every=500,
        save_every=100,
    )


def offline() -> Run:
    """The paper's QuartzNet 5x5, which reads whole recordings, with the paper's optimiser."""
    return replace(
        base(),
        model=sk.QuartzNet(size="5x5"),
        optimizer="novograd:lr=0.01,beta1=0.95,beta2=0.5,weight_decay=0.001",
        clip_norm=None,
    )


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    blocks = (
        sk.Block(channels=16, kernel=11, stride=2),
        sk.Block(channels=16, kernel=13, repeat=2, residual=True),
        sk.Block(channels=32, kernel=1, separable=False),
    )
    run = base()
    model = replace(run.model, size="", blocks=blocks, lookahead=1)
    return replace(run, model=model, steps=2, eval_every=2, save_every=2)


if __name__ == "__main__":
    sk.cli.recipe(globals())
