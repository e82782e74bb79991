"""Spoken digits with MatchboxNet 3x1x64: one speaker left out, or all for the bundled model.

    python recipes/fsdd/prepare.py data/fsdd [FOLDER]
    python recipes/fsdd/run.py theo --out runs/fsdd/theo
    python recipes/fsdd/run.py --out runs/fsdd/all

See RESULTS.md for what it reached.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.train import Data, Run

DATA = Path("data/fsdd")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def base() -> Run:
    """All speakers; the net hears 8 kHz, as the clips are, so that wider audio sounds the same."""
    return Run(
        model=sk.MatchboxNet(
            size="3x1x64",
            labels=DIGITS,
            sample_rate=8000,
            frontend="mfcc:n_mfcc=40,n_mels=40",
        ),
        data=Data(
            train=DATA / "all" / "train.jsonl",
            dev=DATA / "all" / "dev.jsonl",
            batch_size=64,
            cache=True,
        ),
        optimizer="novograd:lr=0.05,beta1=0.95,beta2=0.5,weight_decay=0.001",
        schedule="polynomial_hold:floor=0.02",
        augment=(
            "speed:min=0.8,max=1.25",
            "pad:max_ms=200",
            "gain:min_db=-24,max_db=6",
            "white_noise:min_db=-90,max_db=-30",
            "spec_augment:freq_masks=2,freq_width=8,time_masks=2,time_width=12",
        ),
        steps=3000,
        eval_every=500,
        save_every=500,
    )


def left_out(speaker: str) -> Run:
    """A run that never hears `speaker`, who is its dev set."""
    run = base()
    folder = DATA / speaker
    return replace(
        run, data=replace(run.data, train=folder / "train.jsonl", dev=folder / "dev.jsonl")
    )


def george() -> Run:
    return left_out("george")


def jackson() -> Run:
    return left_out("jackson")


def lucas() -> Run:
    return left_out("lucas")


def nicolas() -> Run:
    return left_out("nicolas")


def theo() -> Run:
    return left_out("theo")


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    run = base()
    model = replace(run.model, size="1x1x8", blocks=())
    return replace(run, model=model, steps=2, eval_every=2, save_every=2)


if __name__ == "__main__":
    sk.cli.recipe(globals())
