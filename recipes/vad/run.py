"""Voice activity with frame-level MarbleNet 3x2x64: every 20 ms, with 80 ms of look-ahead or none.

    python recipes/vad/prepare.py data/vad FOLDER
    python recipes/vad/run.py --out runs/vad
    python recipes/vad/run.py abrupt --out runs/vad_abrupt
    python recipes/vad/run.py causal --out runs/vad_causal
    python recipes/vad/run.py abrupt_causal --out runs/vad_abrupt_causal

See RESULTS.md for the results.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.component import Spec
from speechkit.train import Data, Run

DATA = Path("data/vad")


def base() -> Run:
    """60 ms of look-ahead in the convolutions, 20 ms in the front end.

    The augmentations are a microphone's colour, the noise, and the level last, so that the result
    does not depend on the level.
    """
    return Run(
        model=sk.MarbleNet(
            frame_level=True,
            size="3x2x64",
            frontend=Spec(
                "log_mel",
                {
                    "n_mels": 40,
                    "window_s": 0.025,
                    "normalize": "pcen:time_constant_frames=100,bias=0.01,power=0.2",
                },
            ),
            lookahead=(0, 1, 0, 0, 1, 0),
        ),
        data=Data(
            train=DATA / "train.jsonl",
            dev=DATA / "dev.jsonl",
            batch_size=16,
            buckets=4,
            workers=1,
        ),
        optimizer="adamw:lr=0.003,weight_decay=0.02",
        schedule="cosine:warmup=0.05,floor=0.01",
        augment=(
            "equalize:max_db=10,probability=0.6",
            f"noise:source={DATA / 'noise' / 'train'},min_snr_db=-5,max_snr_db=30,probability=0.4",
            "white_noise:min_db=-90,max_db=-40,probability=0.5",
            "gain:min_db=-45,max_db=15,step_db=25",
            "spec_augment:freq_masks=1,freq_width=5,time_masks=1,time_width=10,probability=0.5",
        ),
        clip_norm=1.0,
        ema=0.998,
        steps=2400,
        eval_every=300,
        save_every=100,
    )


def causal() -> Run:
    """`base` without look-ahead in the net."""
    run = base()
    return replace(run, model=replace(run.model, lookahead=0))


def late(run: Run, name: str) -> Run:
    """Fine-tunes a run's model on recordings that begin in the middle of speech."""
    return replace(
        run,
        data=replace(run.data, train=DATA / "train_abrupt.jsonl"),
        start_from=Path("runs") / name / "best",
        optimizer="adamw:lr=0.001,weight_decay=0.02",
        ema=0.995,
        steps=800,
        eval_every=200,
    )


def abrupt() -> Run:
    """The bundled model."""
    return late(base(), "vad")


def abrupt_causal() -> Run:
    """The bundled model without look-ahead."""
    return late(causal(), "vad_causal")


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    run = base()
    model = replace(run.model, size="1x1x8", blocks=(), lookahead=0)
    data = replace(run.data, workers=0)
    return replace(run, model=model, data=data, steps=2, eval_every=2, save_every=2)


if __name__ == "__main__":
    sk.cli.recipe(globals())
