"""Spoken digits and commands with MatchboxNet 3x2x112, for new voices and any other sound.

    python recipes/words/prepare.py data/words FOLDER [EXTRA.jsonl ...]
    python recipes/words/run.py --out runs/words
    python recipes/words/run.py digits --out runs/digits
    python recipes/words/run.py commands --out runs/commands
    python recipes/words/run.py theo --out runs/theo        # digits without this speaker of FSDD
    python recipes/words/run.py half --out runs/half        # digits with half of the voices

`base` learns all words of Speech Commands at once; the other runs start from its weights.
RESULTS.md has the figures.
"""

from dataclasses import replace
from pathlib import Path

from corpora import BACKGROUND, COMMANDS, DIGITS, OTHERS, UNKNOWN

import speechkit as sk
from speechkit.rules.spotting import Spotting
from speechkit.train import Data, Run

DATA = Path("data/words")
RUNS = Path("runs")


def words(name: str, labels: tuple[str, ...]) -> Run:
    """A run on one of the prepared sets, from random weights.

    The net reads 8 kHz, so it needs no more than the band of a telephone. Its convolutions look
    0.28 s ahead, so that a stream reports a word soon after its end.
    """
    return Run(
        model=sk.MatchboxNet(
            size="3x2x112",
            labels=(*labels, UNKNOWN, BACKGROUND),
            sample_rate=8000,
            frontend="mfcc:n_mfcc=40,n_mels=40",
            lookahead=(3, 3, 3, 3, 6, 0),
            spotting=Spotting(window_s=0.8, threshold=0.7, hold_ms=120, clip_skips=(BACKGROUND,)),
        ),
        data=Data(
            train=DATA / name / "train.jsonl",
            dev=DATA / name / "dev.jsonl",
            batch_size=64,
            buckets=3,
            cache=True,
        ),
        optimizer="adamw:lr=0.003,weight_decay=0.05",
        schedule="cosine:warmup=0.05",
        loss="cross_entropy:smoothing=0.1",
        augment=(
            # wide enough for children
            "speed:min=0.8,max=1.35",
            "equalize:max_db=8",
            "white_noise:min_db=-90,max_db=-46",
            "gain:min_db=-30,max_db=10",
            "spec_augment:freq_masks=1,freq_width=6,time_masks=1,time_width=6",
        ),
        ema=0.99,
        steps=6000,
        eval_every=1000,
        save_every=200,
    )


def base() -> Run:
    """All 35 words of Speech Commands, without FSDD."""
    return words("words", (*DIGITS, *COMMANDS, *OTHERS))


def tuned(name: str, labels: tuple[str, ...]) -> Run:
    """A run that starts from the weights of `base`, with a new head."""
    return replace(
        words(name, labels),
        start_from=RUNS / "words" / "best",
        optimizer="adamw:lr=0.0015,weight_decay=0.05",
        ema=0.998,
        steps=5000,
        eval_every=500,
    )


def digits() -> Run:
    """Zero to nine, `unknown` for other words and `background` for other sound."""
    return tuned("digits", DIGITS)


def commands() -> Run:
    """Ten commands, `unknown` and `background`."""
    return tuned("commands", COMMANDS)


def left_out(speaker: str) -> Run:
    """Digits without one speaker of FSDD, whose clips are the dev set."""
    return replace(tuned(speaker, DIGITS), steps=1200, eval_every=400)


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


def voices(name: str) -> Run:
    """Digits from random weights, to compare numbers of voices."""
    return replace(words(name, DIGITS), steps=2000, ema=0.998)


def every() -> Run:
    return voices("digits")


def half() -> Run:
    return voices("half")


def quarter() -> Run:
    return voices("quarter")


def eighth() -> Run:
    return voices("eighth")


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    run = base()
    model = replace(run.model, size="1x1x8", blocks=(), lookahead=0)
    return replace(run, model=model, steps=2, eval_every=2, save_every=2)


if __name__ == "__main__":
    sk.cli.recipe(globals())
