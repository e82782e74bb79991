"""Spoken digits with MatchboxNet 3x2x64: all speakers, or one of them left out.

    python recipes/fsdd/prepare.py data/fsdd [FOLDER [data/an4/digits.jsonl]]
    python recipes/fsdd/run.py theo --out runs/fsdd/theo
    python recipes/fsdd/run.py --out runs/fsdd/all

See RESULTS.md for the results.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.rules.spotting import Spotting
from speechkit.train import Data, Run

DATA = Path("data/fsdd")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def base() -> Run:
    """All speakers; the net reads 8 kHz, the rate of the clips, so that other rates do not matter.

    Clips are cut close to the word, audio of a microphone is not: half of the clips get silence
    around them.
    """
    return Run(
        model=sk.MatchboxNet(
            size="3x2x64",
            labels=DIGITS,
            sample_rate=8000,
            frontend="mfcc:n_mfcc=40,n_mels=40",
            # spotting.py measures it
            spotting=Spotting(window_s=0.5, threshold=0.7, hold_ms=120),
        ),
        data=Data(
            train=DATA / "all" / "train.jsonl",
            dev=DATA / "all" / "dev.jsonl",
            batch_size=32,
            buckets=1,
            cache=True,
        ),
        optimizer="adamw:lr=0.003,weight_decay=0.05",
        schedule="cosine:warmup=0.05",
        loss="cross_entropy:smoothing=0.1",
        augment=(
            "speed:min=0.85,max=1.2",
            "pad:max_ms=300,probability=0.5",
            # a microphone's colour first, then noise, which masks the frequencies that it weakened
            "equalize:max_db=8",
            "white_noise:min_db=-90,max_db=-46",
            "gain:min_db=-30,max_db=10",
            "spec_augment:freq_masks=1,freq_width=6,time_masks=1,time_width=6",
        ),
        ema=0.99,
        steps=600,
        eval_every=200,
        save_every=200,
    )


def left_out(speaker: str) -> Run:
    """A run without `speaker` in training; this speaker is the dev set."""
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
