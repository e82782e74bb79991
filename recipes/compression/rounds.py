"""Rounds of train, prune and rewind: a net is pruned step by step with the transform `ap`.

    python recipes/compression/rounds.py recipes/fsdd/run.py:theo runs/ap
    python recipes/compression/rounds.py recipes/fsdd/run.py:theo runs/magnitude --q=0
    python recipes/compression/rounds.py recipes/fsdd/run.py:theo runs/ap1 seed=1 --rounds=3

Round 0 trains the whole net from its initial weights. Each of the `--rounds` (5) after it takes
`--share` (0.2) of the weights away that are left, `--q` (0.02) of them for the sake of dead units,
sets the others back to their initial values, and trains again. NAME=VALUE are settings of the run.
The models are OUT/0/run/best, OUT/1/run/best, ...; a command that was interrupted goes on.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.cli.train import load_run
from speechkit.component import Spec
from speechkit.config import override
from speechkit.probes import Examples
from speechkit.train.batches import training_utterances
from speechkit.transforms import transform

CLIPS = 64
"""The number of recordings that show which layers have inputs that are never negative."""


def main(
    recipe: str, out: str, *settings: str, rounds: str = "5", share: str = "0.2", q: str = "0.02"
) -> Iterator[Path]:
    """Yields the model of each round."""
    run = override(load_run(recipe)[1], settings)
    for number in range(int(rounds) + 1):
        start, folder = Path(out, str(number), "start"), Path(out, str(number), "run")
        if not number and not start.exists():
            sk.save(sk.build(run.model, run.seed), start)
        elif not start.exists():
            before = Path(out, str(number - 1))
            prune = Spec(
                "ap", {"start": str(before / "start"), "share": float(share), "q": float(q)}
            )
            trained = sk.load(before / "run" / "best")
            clips = Examples(trained, training_utterances(run.data)[:CLIPS], seed=run.seed)
            made, applied = transform(trained, [prune], clips)
            sk.save(made, start, transforms=applied)
        method = (*run.method, "keep_zeros") if number else run.method
        this = replace(run, start_from=start, method=method)
        sk.fit(this, folder, resume=folder.exists(), device="cpu")
        yield folder / "best"


if __name__ == "__main__":
    sk.cli.prepare(main)
