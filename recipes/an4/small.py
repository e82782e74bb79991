"""A net that a minute trains on AN4 alone, to compare settings.

    speechkit ablate recipes/an4/small.py --axis block=preact,res2 --out runs/blocks

Its labels are words too, which so small a net learns sooner than how they are spelled.
"""

from dataclasses import replace

from run import DATA, flat

import speechkit as sk
from speechkit.train import Run

WORDS = """
    oh zero one two three four five six seven eight nine ten eleven twelve teen twenty thirty forty
    fifty sixty seventy eighty ninety hundred thousand th first second third half january february
    march april may june july august september october november december enter rubout erase repeat
    go help start stop yes no
"""
"""AN4's words, and two endings of them."""
LABELS = (*sk.text.ENGLISH_LABELS, *WORDS.split())
BLOCKS = (
    sk.Block(channels=96, kernel=11, stride=2),
    *(sk.Block(channels=96, kernel=kernel, repeat=2, residual=True) for kernel in (13, 15, 17)),
    sk.Block(channels=192, kernel=1, separable=False),
)


def base() -> Run:
    """Letters and words, each label with an equal share of the speech beside CTC."""
    run = flat()
    return replace(
        run,
        model=replace(
            run.model, blocks=BLOCKS, lookahead=1, labels=LABELS, normalization="english"
        ),
        data=replace(run.data, train=DATA / "train.jsonl", dev=DATA / "dev.jsonl"),
        schedule="cosine:warmup=0.1,floor=0.02",
        steps=300,
        eval_every=300,
        save_every=300,
    )


if __name__ == "__main__":
    sk.cli.recipe(globals())
