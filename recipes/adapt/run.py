"""Fine-tunes a bundled model of words to one person's voice and room.

    python recipes/adapt/prepare.py data/adapt MINE [OLD]
    python recipes/adapt/run.py adapt runs/mine

See RESULTS.md for the results.
"""

from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.train import Data, Run
from speechkit.transforms import transform

DATA = Path("data/adapt")
MODEL = "digits"
MOST_LOST = 0.01
"""By how much the accuracy on the old dev set may fall."""
MINE, OTHERS = "my clips", "clips of others"
SHARES = "all", "half", "a quarter"
"""How much of the change is tried, one after the other."""


def base() -> Run:
    """A few steps from the weights of MODEL, on one person's clips and some of others.

    The last weights count, averaged: no checkpoint is chosen on the clips that are held out.
    """
    return Run(
        model=sk.load(MODEL).config,
        start_from=Path(MODEL),
        data=Data(
            train=DATA / "train.jsonl",
            dev=DATA / "mine.jsonl",
            batch_size=32,
            buckets=3,
            cache=True,
        ),
        optimizer="adamw:lr=0.0003,weight_decay=0.05",
        schedule="cosine:warmup=0.1",
        loss="cross_entropy:smoothing=0.1",
        augment=(
            "speed:min=0.9,max=1.1",
            "pad:max_ms=300,probability=0.5",
            "equalize:max_db=4",
            "white_noise:min_db=-90,max_db=-46",
            "gain:min_db=-20,max_db=10",
            "spec_augment:freq_masks=1,freq_width=6,time_masks=1,time_width=6",
        ),
        ema=0.98,
        steps=40,
        eval_every=40,
        save_every=40,
    )


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    run = base()
    model = replace(run.model, size="1x1x8", blocks=(), lookahead=0)
    return replace(run, model=model, start_from=None, steps=2, eval_every=2, save_every=2)


def adapt(out: str, model: str = MODEL, *, seed: str = "0", steps: str = "") -> list[Path]:
    """Trains, compares, and writes the adapted model, or the old one if the new one is worse.

        python recipes/adapt/run.py adapt OUT [MODEL] [--seed=0] [--steps=N]

    MODEL is a bundled model or a folder. The accuracy on this person's held-out clips may not fall,
    and that on the old dev set by at most MOST_LOST. If it does, half of the change of all weights
    is tried, then a quarter; then the old weights are kept.
    """
    if any((Path(out) / name).exists() for name in ("run", "final")):
        raise ConfigError(f"{out} holds a run already; delete it, or give another folder")
    for name, value in ("seed", seed), ("steps", steps or "0"):
        if not value.removeprefix("-").isdecimal():
            raise ConfigError(f"--{name}={value}: give a whole number")
    old = sk.load(model)
    run = replace(base(), model=old.config, start_from=Path(model), seed=int(seed))
    if steps:
        run = replace(run, steps=int(steps), eval_every=int(steps), save_every=int(steps))
    sk.fit(run, Path(out) / "run", device="cpu")
    new = sk.load(Path(out) / "run" / "best")
    before = accuracies(old)
    for share in SHARES:
        after = accuracies(new)
        print(f"{share} of the change:")
        for what, then in before.items():
            print(f"  accuracy on {what}: {then:.3f} before, {after[what]:.3f} after")
        if after[MINE] >= before[MINE] and after[OTHERS] >= before[OTHERS] - MOST_LOST:
            print(f"Kept: {share} of the change.")
            break
        new, _ = transform(new, [Spec("average", {"models": model})])
    else:
        new = old
        print(
            f"Kept: the old weights. The accuracy on my clips may not fall, and that on clips of "
            f"others by at most {MOST_LOST}."
        )
    sk.save(new, Path(out) / "final")
    return [Path(out) / "final"]


def accuracies(model: sk.Model) -> dict[str, float]:
    """The accuracy on this person's held-out clips, and on the old dev set."""
    sets = {MINE: "mine.jsonl", OTHERS: "old.jsonl"}
    return {what: sk.evaluate(model, DATA / name)["accuracy"] for what, name in sets.items()}


if __name__ == "__main__":
    sk.cli.recipe(globals(), adapt)
