"""Spoken commands with MatchboxNet 3x1x64: all words of either version, or ten of them.

    python recipes/speech_commands/prepare.py data/speech_commands 2 [FOLDER]
    python recipes/speech_commands/run.py --out runs/v2_35
    python recipes/speech_commands/run.py v2_12 --out runs/v2_12

See README.md for the source of the settings and RESULTS.md for the measured runs.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.train import Data, Run

DATA = Path("data/speech_commands")
EPOCHS = 200
BATCH = 256
"""Utterances in a step: 128 on each of two cards, or two batches of 128 on one."""

# the order is that of the published checkpoints, so that their heads fit
V1_30 = (
    "bed bird cat dog down eight five four go happy house left marvin nine no off on one right "
    "seven sheila six stop three tree two up wow yes zero"
)
V2_35 = (
    "visual wow learn backward dog two left happy nine go up bed stop one zero tree seven on four "
    "bird right eight no six forward house marvin sheila five off three down cat follow yes"
)
V2_12 = "yes no up down left right on off stop go unknown silence"


def commands(name: str, labels: str, utterances: int) -> Run:
    """A run on one of the prepared sets, with the number of its training utterances."""
    epoch_steps = utterances // BATCH
    return Run(
        # the paper's clips have 128 frames, whatever their length
        model=sk.MatchboxNet(
            size="3x1x64", labels=tuple(labels.split()), frontend="mfcc:clip_frames=128"
        ),
        data=Data(
            train=DATA / name / "train.jsonl",
            dev=DATA / name / "dev.jsonl",
            batch_size=128,
            buckets=1,
            workers=8,
            cache=True,
        ),
        optimizer="novograd:lr=0.05,beta1=0.95,beta2=0.5,weight_decay=0.001",
        schedule="polynomial_hold:warmup_ratio=0.05,hold_ratio=0.45,power=2,floor=0.02",
        augment=(
            "shift:max_ms=5",
            "white_noise:min_db=-90,max_db=-46",
            "spec_cutout:rects=5,freq_width=15,time_width=25",
            "spec_augment:freq_masks=2,freq_width=15,time_masks=2,time_width=25",
        ),
        accumulate=2,
        precision="bf16-mixed",
        steps=EPOCHS * epoch_steps,
        eval_every=epoch_steps,
        save_every=epoch_steps,
    )


def base() -> Run:
    """All 35 words of version 2."""
    return commands("v2_35", V2_35, utterances=84_843)


def v1_30() -> Run:
    """All 30 words of version 1."""
    return commands("v1_30", V1_30, utterances=51_088)


def v2_12() -> Run:
    """Ten words of version 2, other words as `unknown`, and silence."""
    return commands("v2_12", V2_12, utterances=36_923)


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    run = base()
    model = replace(run.model, size="1x1x8", blocks=())
    data = replace(run.data, batch_size=32, workers=0)
    return replace(
        run, model=model, data=data, precision="32-true", steps=2, eval_every=2, save_every=2
    )


if __name__ == "__main__":
    sk.cli.recipe(globals())
