"""The last run, from the average of the two before it.

    python recipes/an4/again.py --out runs/an4_again

See README.md for those.
"""

from dataclasses import replace
from pathlib import Path

from run import hard

import speechkit as sk
from speechkit.train import Run


def base() -> Run:
    """Once more, with more left out."""
    run = hard()
    return replace(
        run,
        model=replace(run.model, dropout=0.2, frontend="log_mel:normalize=running:prior_frames=50"),
        init=Path("runs/an4_avg"),
        optimizer="adamw:lr=0.001,weight_decay=0.03",
        augment=(
            *run.augment[:-2],
            "white_noise:min_db=-80,max_db=-45",
            "spec_augment:freq_masks=2,freq_width=16,time_masks=4,time_width=16",
        ),
        steps=2500,
        seed=2,
    )


if __name__ == "__main__":
    sk.cli.recipe(globals())
