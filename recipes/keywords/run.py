"""Your own keywords, `unknown` and `background` with a small MatchboxNet.

    python recipes/keywords/prepare.py data/keywords FOLDER
    python recipes/keywords/run.py --out runs/keywords

See RESULTS.md for the results.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.data import read_manifest
from speechkit.rules.spotting import Spotting
from speechkit.train import Data, Run

DATA = Path("data/keywords")


def base() -> Run:
    """The labels that prepare.py found."""
    train = DATA / "train.jsonl"
    labels = sorted({str(u.label) for u in read_manifest(train, check_files=False)})
    return Run(
        model=sk.MatchboxNet(
            size="3x1x64",
            labels=tuple(labels),
            frontend="mfcc:n_mfcc=40,n_mels=40",
            spotting=Spotting(window_s=0.8, threshold=0.8, hold_ms=120),
        ),
        data=Data(
            train=train,
            dev=DATA / "dev.jsonl",
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
            "equalize:max_db=8",
            "white_noise:min_db=-90,max_db=-46",
            "gain:min_db=-30,max_db=10",
            "spec_augment:freq_masks=1,freq_width=6,time_masks=1,time_width=6",
        ),
        ema=0.99,
        steps=400,
        eval_every=200,
        save_every=200,
    )


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    run = base()
    model = replace(run.model, size="1x1x8", blocks=())
    return replace(run, model=model, steps=2, eval_every=2, save_every=2)


if __name__ == "__main__":
    sk.cli.recipe(globals())
