"""The last steps of the pipeline: sounds in which nobody speaks, averages, the least score."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.component import Spec
from speechkit.train import Run

RECIPES = Path(__file__).parents[1]
LEAST_SCORE = 0.6
"""Segments whose words have a lower mean score have no text; chosen on dev."""


def sources(folder: Path, out: Path) -> None:
    """The manifests of recipes/vad/sources.py, by a process of its own: some of its modules have
    the same names as those here."""
    script = RECIPES / "vad" / "sources.py"
    subprocess.run([sys.executable, script, out, folder], check=True)


def average(*models: Path) -> Spec:
    """The transform that averages with other models."""
    return Spec("average", {"models": [str(model) for model in models]})


def shares(runs: Path) -> Spec:
    """The transform of `quiet_again` to the average with `quiet` and what it began with, 5 : 3 : 2.

    The shares were chosen on dev.
    """
    last, before = runs / "quiet_again/last", runs / "average_beside"
    return average(*[last] * 4, *[runs / "quiet/last"] * 3, *[before] * 2)


def finished(model: Path, out: Path, least_score: float) -> None:
    """The model in float16, with scores equal to three digits, and with a least score."""
    sk.save(sk.load(model).with_(endpointing={"least_score": least_score}).half(), out)


def with_sounds(run: Run, data: Path, model: Path) -> Run:
    """A run that goes on from a model, with the sounds of background.py in `data`."""
    own, noise = data / "train.jsonl", data / "noise.jsonl"
    return replace(
        run,
        data=replace(
            run.data,
            train=(own, own, own, data / "spliced.jsonl", data / "background.jsonl"),
            batch_seconds=48.0,
            buckets=12,
        ),
        start_from=model,
        optimizer="adamw:lr=0.0006,weight_decay=0.02",
        augment=(
            "gain:min_db=-20,max_db=6",
            "speed:min=0.85,max=1.2",
            "equalize:max_db=6,probability=0.3",
            f"noise:source={noise},min_snr_db=5,max_snr_db=30,probability=0.3",
            "white_noise:min_db=-90,max_db=-40,probability=0.5",
            "spec_augment:freq_masks=2,freq_width=12,time_masks=2,time_width=12",
        ),
        ema=0.995,
        steps=700,
        eval_every=175,
        save_every=175,
        seed=21,
    )


def with_more_sounds(run: Run, data: Path, model: Path) -> Run:
    """The run `with_sounds` from its end, with the sounds twice and less dropout."""
    own, sounds = data / "train.jsonl", data / "background.jsonl"
    return replace(
        run,
        model=replace(run.model, dropout=0.1),
        data=replace(run.data, train=(own, own, own, data / "spliced.jsonl", sounds, sounds)),
        start_from=model,
        optimizer="adamw:lr=0.0008,weight_decay=0.02",
        steps=500,
        eval_every=250,
        save_every=250,
        seed=22,
    )
