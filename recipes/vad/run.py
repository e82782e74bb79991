"""Voice activity with a frame-level MarbleNet and a GRU, every 20 ms.

    python recipes/vad/prepare.py data/vad FOLDER MODEL
    python recipes/vad/conditions.py data/vad FOLDER MODEL
    python recipes/vad/run.py --out runs/vad_base
    python recipes/vad/run.py hard --out runs/vad_hard
    python recipes/vad/run.py quiet --out runs/vad
    python recipes/vad/run.py causal --out runs/vad_causal_hard
    python recipes/vad/run.py causal_quiet --out runs/vad_causal

MODEL is a recogniser of English, which aligns the transcripts. See RESULTS.md for the results.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.component import Spec
from speechkit.train import Data, Run

DATA = Path("data/vad")
RUNS = Path("runs")


def base() -> Run:
    """80 ms of look-ahead in the convolutions, 20 ms in the front end.

    The GRU remembers the voices and the noise so far. The augmentations are a microphone's colour,
    more noise, and the level last, so that the result does not depend on the level.
    """
    return Run(
        model=sk.MarbleNet(
            frame_level=True,
            frontend=Spec(
                "log_mel",
                {
                    "n_mels": 48,
                    "window_s": 0.025,
                    "normalize": "pcen_and_level:time_constant_frames=100,bias=0.01,power=0.2",
                },
            ),
            blocks=(
                sk.Block(channels=96, kernel=11, stride=2),
                sk.Block(channels=64, kernel=13, repeat=2, residual=True),
                sk.Block(channels=64, kernel=15, repeat=2, residual=True),
                sk.Block(channels=64, kernel=17, repeat=2, residual=True),
                sk.Block(channels=64, kernel=1, residual=True, mixer="gru"),
                sk.Block(channels=64, kernel=1, separable=False),
            ),
            lookahead=(0, 1, 0, 1, 0, 0),
        ),
        data=Data(
            train=DATA / "train.jsonl",
            dev=DATA / "dev.jsonl",
            batch_size=16,
            buckets=4,
            max_duration_s=20.0,
            workers=1,
        ),
        optimizer="adamw:lr=0.003,weight_decay=0.02",
        schedule="cosine:warmup=0.05,floor=0.01",
        augment=(
            "equalize:max_db=10,probability=0.6",
            f"noise:source={DATA / 'noise'},min_snr_db=-5,max_snr_db=30,probability=0.3",
            "white_noise:min_db=-90,max_db=-40,probability=0.5",
            "gain:min_db=-45,max_db=15,step_db=25",
            "spec_augment:freq_masks=1,freq_width=8,time_masks=1,time_width=10,probability=0.5",
        ),
        clip_norm=1.0,
        ema=0.998,
        steps=4500,
        eval_every=1500,
        save_every=200,
    )


def hard() -> Run:
    """Fine-tunes `base` with more noise, music and crowds."""
    run = base()
    return replace(
        run,
        start_from=RUNS / "vad_base" / "best",
        optimizer="adamw:lr=0.0015,weight_decay=0.02",
        augment=(
            run.augment[0],
            f"noise:source={DATA / 'noise'},min_snr_db=-5,max_snr_db=20,probability=0.7",
            *run.augment[2:],
        ),
        steps=2400,
        eval_every=800,
    )


def quiet() -> Run:
    """Fine-tunes `hard`; bundled as `vad`."""
    return in_quiet_rooms(hard(), "vad_hard")


def causal() -> Run:
    """Fine-tunes `hard` without look-ahead in the net."""
    run = hard()
    return replace(
        run,
        model=replace(run.model, lookahead=0),
        start_from=RUNS / "vad_hard" / "best",
        steps=1600,
    )


def causal_quiet() -> Run:
    """Fine-tunes `causal`; bundled as `vad_causal`."""
    return replace(in_quiet_rooms(causal(), "vad_causal_hard"), steps=1600, eval_every=800)


def in_quiet_rooms(run: Run, name: str) -> Run:
    """Fine-tunes the model in runs/`name` with voices from far away, not labelled as speech.

    These voices are 28 to 48 dB below the rest. The gain leaves most speech above -54 dB of full
    scale, so that the level distinguishes them from speech.
    """
    equalize, noise, white, _, masks = run.augment
    far = f"noise:source={DATA / 'voices'},min_snr_db=28,max_snr_db=48,probability=0.6"
    return replace(
        run,
        start_from=RUNS / name / "best",
        optimizer="adamw:lr=0.001,weight_decay=0.02",
        augment=(equalize, noise, far, white, "gain:min_db=-22,max_db=15,step_db=10", masks),
        steps=2600,
        eval_every=1300,
    )


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    run = base()
    model = replace(run.model, size="1x1x8", blocks=(), lookahead=0)
    data = replace(run.data, workers=0)
    return replace(run, model=model, data=data, steps=2, eval_every=2, save_every=2)


if __name__ == "__main__":
    sk.cli.recipe(globals())
