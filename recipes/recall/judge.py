"""The area under the ROC curve of the last 0.3 s, with another layer in the row under test.

    python recipes/recall/judge.py
    python recipes/recall/judge.py mixer=lru
    python recipes/recall/judge.py block=rglru kernel=5 --seed 1
    python recipes/recall/judge.py model.stack=revcol steps=400

A setting with the name of a field of `sk.Block` is one of the row under test; any other is as for
`--set`. Without --seed it trains with the seeds 0, 1 and 2. Choose settings by dev and report test.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import run

import speechkit as sk
from speechkit.cli.output import complain
from speechkit.config import override
from speechkit.data import read_manifest
from speechkit.errors import SpeechkitError
from speechkit.models import Model
from speechkit.models.net import Block
from speechkit.tasks import metrics, outputs, task_of
from speechkit.train import Run

LAST_S = 0.3
SEEDS = 0, 1, 2


def recall(model: Model, manifest: Path) -> float:
    """The AUC of the frames of the last 0.3 s of each recording.

    They are in the second word, as loud after "zero" as after "one": chance is 0.5.
    """
    task, frames = task_of(model), round(LAST_S / model.frame_s)
    truth: list[int] = []
    scores: list[float] = []
    for batch, output in outputs(model, task, read_manifest(manifest)):
        targets, lengths = task.targets(batch, output)
        speech = output.scores.softmax(-1)[..., 1]
        for row, n in enumerate(lengths.tolist()):
            truth += targets[row, n - frames : n].tolist()
            scores += speech[row, n - frames : n].tolist()
    return metrics.auc(truth, scores)


def variant(assignments: list[str], seed: int) -> Run:
    """The run with these settings, of the row under test or of the whole run."""
    row = {field.name for field in fields(Block)}
    settings = [
        f"model.blocks.{run.ROW}.{text}" if text.partition("=")[0] in row else text
        for text in assignments
    ]
    return override(run.base(), [*settings, f"seed={seed}"])


def main(assignments: list[str], seeds: list[int]) -> None:
    for seed in seeds:
        with TemporaryDirectory() as folder:
            sk.fit(variant(assignments, seed), Path(folder), device="cpu")
            model = sk.load(Path(folder) / "best")
        dev, test = (recall(model, run.DATA / f"{part}.jsonl") for part in ("dev", "test"))
        print(f"seed {seed}: dev {dev:.3f}, test {test:.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("assignments", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    try:
        main(given.assignments, list(SEEDS) if given.seed is None else [given.seed])
    except SpeechkitError as error:
        complain("error", error)
        sys.exit(1)
