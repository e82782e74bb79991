"""English with QuartzNet 15x5 on 960 hours, and smaller, streaming and fine-tuned ones.

    python recipes/librispeech/prepare.py data/librispeech 960 [FOLDER]
    torchrun --nproc-per-node 8 recipes/librispeech/run.py --out runs/librispeech
    python recipes/librispeech/run.py small --out runs/librispeech_small

See README.md for the source of the settings and RESULTS.md for the measured runs.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import speechkit as sk
from speechkit.component import Spec
from speechkit.train import Data, Run

DATA = Path("data/librispeech")
EPOCHS, WARMUP_EPOCHS, HOLD_EPOCHS = 260, 2, 140
GAMMA = 0.981
"""The factor of the learning rate in each epoch after the hold."""


def pace(epoch_steps: int) -> dict[str, Any]:
    """The fields of a run that follow from the number of steps per epoch."""
    schedule = {
        "warmup": WARMUP_EPOCHS * epoch_steps,
        "hold": HOLD_EPOCHS * epoch_steps,
        "halflife": round(math.log(0.5) / math.log(GAMMA) * epoch_steps),
        "floor": 0.001,
    }
    return {
        "schedule": Spec("exponential", schedule),
        "steps": EPOCHS * epoch_steps,
        "eval_every": epoch_steps,
        "save_every": epoch_steps,
    }


def base() -> Run:
    """The paper's largest net on all 960 hours, on 8 cards: 8 · 72 · 2 = 1152 utterances a step."""
    return Run(
        model=sk.QuartzNet(size="15x5"),
        data=Data(
            train=(
                DATA / "train-clean-100.jsonl",
                DATA / "train-clean-360.jsonl",
                DATA / "train-other-500.jsonl",
            ),
            dev=DATA / "dev-clean.jsonl",
            batch_size=72,
            max_duration_s=16.7,
            workers=8,
        ),
        optimizer="novograd:lr=0.01,beta1=0.95,beta2=0,weight_decay=0.001",
        augment=(
            "speed:min=0.85,max=1.15",
            "spec_augment:freq_masks=2,freq_width=15,time_masks=2,time_width=55",
        ),
        accumulate=2,
        ema=0.999,
        precision="bf16-mixed",
        devices=8,
        # 281,241 utterances, less than 1 % of them too long
        **pace(epoch_steps=241),
    )


def middle() -> Run:
    """QuartzNet 10x5 on train-clean-360, 104,014 utterances, with the batches of `base`."""
    run = base()
    data = replace(run.data, train=DATA / "train-clean-360.jsonl")
    return replace(run, model=sk.QuartzNet(size="10x5"), data=data, **pace(epoch_steps=90))


def small() -> Run:
    """QuartzNet 5x5 on train-clean-100, on one card: 28,539 utterances, 144 of them a step."""
    run = base()
    data = replace(run.data, train=DATA / "train-clean-100.jsonl")
    model = sk.QuartzNet(size="5x5")
    return replace(run, model=model, data=data, devices=1, **pace(epoch_steps=198))


def streaming() -> Run:
    """`base` with 0.58 s of look-ahead: 20 ms by every convolution of each group's first block."""
    model = sk.QuartzNet(
        size="15x5",
        lookahead=(5, *(1, 0, 0) * 5, 2, 0),
        frontend="log_mel:normalize=running",
    )
    return replace(base(), model=model)


def finetune() -> Run:
    """Fine-tunes the model of `base` on one card; `--set` gives the data and the labels."""
    run = base()
    return replace(
        run,
        data=replace(run.data, train=DATA / "train-clean-100.jsonl", batch_size=32),
        start_from=Path("runs/librispeech/best"),
        optimizer="novograd:lr=0.001,beta1=0.95,beta2=0,weight_decay=0.001",
        schedule="cosine:warmup=0.05",
        accumulate=1,
        devices=1,
        steps=5000,
        eval_every=500,
        save_every=500,
    )


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    blocks = (
        sk.Block(channels=16, kernel=11, stride=2),
        sk.Block(channels=16, kernel=13, repeat=2, residual=True),
        sk.Block(channels=32, kernel=1, separable=False),
    )
    run = small()
    return replace(
        run,
        model=sk.QuartzNet(blocks=blocks),
        data=replace(run.data, workers=0),
        schedule="cosine",
        precision="32-true",
        steps=2,
        eval_every=2,
        save_every=2,
    )


if __name__ == "__main__":
    sk.cli.recipe(globals())
