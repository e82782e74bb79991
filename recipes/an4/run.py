"""AN4 with a small QuartzNet: letters, digits and commands, streaming.

    python recipes/an4/run.py pipeline runs/an4 FOLDER [AN4]
    python recipes/an4/run.py hard --out runs/an4/hard

The first trains the bundled model from the corpora; the second is one of its steps (README.md).
"""

import runpy
from dataclasses import replace
from pathlib import Path

import finish
from background import SCENES, background
from finish import average, finished, shares, sources
from lexicon import SYMBOLS, write_phones
from prepare import prepare
from splice import UTTERANCES, splice

import speechkit as sk
from speechkit.train import Data, Pipeline, Run

DATA, ENGLISH, RUNS = Path("data/an4"), Path("data/english"), Path("runs/an4")
SOURCES = Path("data/sources")
BLOCKS = (
    sk.Block(channels=256, kernel=11, stride=2),
    *(
        sk.Block(channels=256, kernel=kernel, repeat=3, residual=True)
        for kernel in (13, 15, 17, 19, 21)
    ),
    sk.Block(channels=256, kernel=25, dilation=2),
    sk.Block(channels=512, kernel=1, separable=False),
)
LOOKAHEAD = (3, 1, 1, 1, 1, 1, 2, 0)
"""0.36 s in total: the stem's frames are 10 ms, those after it 20 ms."""
GROW = "grow:after=4,kernel=23"
"""One more block, before the dilated one."""
WORDS = """
    oh zero one two three four five six seven eight nine ten eleven twelve teen twenty thirty forty
    fifty sixty seventy eighty ninety hundred thousand th first second third half january february
    march april may june july august september october november december enter rubout erase repeat
    go help start stop yes no
"""
"""AN4's words, and two endings of them."""


def pipeline(
    out: str, folder: str, an4: str | None = None, *, steps: str = "", redo: str = ""
) -> list[Path]:
    """Trains the bundled model OUT/final from the corpora; a second call continues.

        python recipes/an4/run.py pipeline OUT FOLDER [AN4] [--steps=N] [--redo=STEP]

    FOLDER is that of recipes/english/prepare.py and recipes/vad/sources.py, AN4 that of prepare.py
    here. With `--steps` each run has
    so many steps, to test the pipeline; `--redo` repeats a step and all later ones.
    """
    runs = Path(out)
    do = Pipeline(runs, redo)

    def train(name: str, run: Run) -> None:
        do.train(name, replace(run, steps=int(steps)) if steps else run)

    prepare_english = runpy.run_path(str(finish.RECIPES / "english" / "prepare.py"))
    do.call("prepare", prepare, Path(an4) if an4 else None, DATA)
    do.call("prepare_english", prepare_english["prepare"], Path(folder), ENGLISH)
    do.call("lexicon", write_phones, DATA, ENGLISH)
    train("flat", flat())
    train("phones", phones(runs))
    do.call("splice", splice, DATA, ENGLISH, runs / "phones/best", UTTERANCES)
    train("base", base(runs))
    train("hard", hard(runs))
    do.transform("average", runs / "base/best", average(runs / "hard/last"))
    train("again", again(runs))
    do.transform("average_again", runs / "again/last", average(runs / "average"))
    do.transform("grown", runs / "average_again", GROW, manifest=DATA / "train.jsonl")
    train("more", more(runs))
    train("beside", beside(runs))
    do.transform("average_deep", runs / "beside/last", average(runs / "more/last"))
    for seed in (11, 12):
        train(f"beside{seed}", replace(beside_again(runs), seed=seed))
    three = average(runs / "beside11/last", runs / "beside12/last")
    do.transform("average_beside", runs / "beside/last", three)
    do.call("sources", sources, Path(folder), SOURCES)
    do.call("background", background, DATA, SOURCES / "train.jsonl", SCENES)
    train("quiet", quiet(runs))
    train("quiet_again", quiet_again(runs))
    do.transform("average_quiet", runs / "quiet_again/last", shares(runs))
    do.transform("biased", runs / "average_quiet", "bias:by=-0.45")
    do.call("final", finished, runs / "biased", runs / "final", finish.LEAST_SCORE)
    return [runs / "final"]


def _net() -> sk.QuartzNet:
    return sk.QuartzNet(blocks=BLOCKS, lookahead=LOOKAHEAD, frontend="log_mel:normalize=running")


def flat() -> Run:
    """Short utterances in phones, with equal segments for all phones in addition to CTC."""
    run = phones()
    return replace(
        run,
        data=replace(
            run.data, train=DATA / "short.jsonl", batch_size=16, batch_seconds=None, buckets=4
        ),
        start_from=None,
        method=("flat_start",),
        schedule="cosine:warmup=0.1,floor=0.3",
        augment=("gain:min_db=-10,max_db=6",),
        ema=0.98,
        steps=900,
        eval_every=150,
    )


def phones(runs: Path = RUNS) -> Run:
    """Phones of AN4 and of other English, from the flat start."""
    run, own = base(runs), DATA / "phones.jsonl"
    return replace(
        run,
        model=replace(_net(), labels=tuple(SYMBOLS.values()), normalization="none"),
        data=replace(
            run.data,
            train=(own, own, own, DATA / "other_phones.jsonl"),
            dev=DATA / "dev_phones.jsonl",
            buckets=20,
        ),
        start_from=runs / "flat/best",
        optimizer="adamw:lr=0.002,weight_decay=0.01",
        schedule="cosine:warmup=0.03,floor=0.02",
        ema=0.998,
        steps=4500,
    )


def base(runs: Path = RUNS) -> Run:
    """Letters, after the phones: AN4's own utterances and spliced ones."""
    own = DATA / "train.jsonl"
    return Run(
        model=_net(),
        data=Data(
            train=(own, own, own, DATA / "spliced.jsonl"),
            dev=DATA / "dev.jsonl",
            batch_size=None,
            batch_seconds=64.0,
            buckets=12,
            cache=True,
        ),
        start_from=runs / "phones/best",
        optimizer="adamw:lr=0.0012,weight_decay=0.01",
        schedule="cosine:warmup=0.05,floor=0.01",
        augment=(
            "gain:min_db=-12,max_db=6",
            "speed:min=0.85,max=1.2",
            "equalize:max_db=6,probability=0.3",
            "spec_augment:freq_masks=2,freq_width=10,time_masks=2,time_width=12",
        ),
        clip_norm=1.0,
        ema=0.999,
        precision="bf16-mixed",
        steps=6000,
        eval_every=500,
        save_every=250,
    )


def hard(runs: Path = RUNS) -> Run:
    """Letters again, starting from `base`, with stronger augmentation of the audio."""
    run = base(runs)
    return replace(
        run,
        model=replace(run.model, dropout=0.1),
        start_from=runs / "base/best",
        optimizer="adamw:lr=0.001,weight_decay=0.01",
        augment=(
            "gain:min_db=-20,max_db=6",
            "speed:min=0.8,max=1.3",
            "equalize:max_db=8,probability=0.5",
            "white_noise:min_db=-80,max_db=-50",
            "spec_augment:freq_masks=2,freq_width=14,time_masks=3,time_width=14",
        ),
        steps=4500,
    )


def again(runs: Path = RUNS) -> Run:
    """Once more, with stronger masking and dropout."""
    run = hard(runs)
    return replace(
        run,
        model=replace(run.model, dropout=0.2, frontend="log_mel:normalize=running:prior_frames=50"),
        start_from=runs / "average",
        optimizer="adamw:lr=0.001,weight_decay=0.03",
        augment=(
            *run.augment[:-2],
            "white_noise:min_db=-80,max_db=-45",
            "spec_augment:freq_masks=2,freq_width=16,time_masks=4,time_width=16",
        ),
        steps=2500,
        seed=2,
    )


def more(runs: Path = RUNS) -> Run:
    """Letters only, in the deeper net."""
    run, own = again(runs), DATA / "train.jsonl"
    deeper = replace(BLOCKS[5], kernel=23)
    return replace(
        run,
        model=replace(
            run.model,
            blocks=(*BLOCKS[:6], deeper, *BLOCKS[6:]),
            lookahead=(*LOOKAHEAD[:6], 0, *LOOKAHEAD[6:]),
        ),
        data=replace(run.data, train=(own,) * 6 + (DATA / "spliced.jsonl",), buckets=20),
        start_from=runs / "grown",
        optimizer="adamw:lr=0.0008,weight_decay=0.03",
        steps=2800,
        eval_every=400,
        seed=9,
    )


def beside(runs: Path = RUNS) -> Run:
    """Letters, and phones in the middle of the net, with other English too."""
    run, own = more(runs), DATA / "train_both.jsonl"
    others = (DATA / "spliced.jsonl", DATA / "english_phones.jsonl")
    return replace(
        run,
        data=replace(run.data, train=(own,) * 6 + others),
        method=("phones:after=3,weight=0.3",),
        optimizer="adamw:lr=0.001,weight_decay=0.02",
        steps=3500,
        seed=8,
    )


def beside_again(runs: Path = RUNS) -> Run:
    """`beside` from the average of both, with fewer steps."""
    return replace(
        beside(runs),
        start_from=runs / "average_deep",
        optimizer="adamw:lr=0.0008,weight_decay=0.02",
        steps=2200,
        seed=11,
    )


def quiet(runs: Path = RUNS) -> Run:
    """From the average on, with sounds in which nobody says a word, and with AN4 among them."""
    return finish.with_sounds(more(runs), DATA, runs / "average_beside")


def quiet_again(runs: Path = RUNS) -> Run:
    """`quiet` from its end, with more of the sounds and less dropout."""
    return finish.with_more_sounds(quiet(runs), DATA, runs / "quiet/last")


def small() -> Run:
    """Three blocks, trained on AN4 only in a minute, to compare settings.

    The labels are letters and whole words, since so small a net learns words sooner.
    """
    run = flat()
    rows = [sk.Block(channels=96, kernel=k, repeat=2, residual=True) for k in (13, 15, 17)]
    blocks = (replace(BLOCKS[0], channels=96), *rows, replace(BLOCKS[-1], channels=192))
    labels = (*sk.text.ENGLISH_LABELS, *WORDS.split())
    return replace(
        run,
        model=sk.QuartzNet(blocks=blocks, lookahead=1, labels=labels, frontend=run.model.frontend),
        data=replace(run.data, train=DATA / "train.jsonl", dev=DATA / "dev.jsonl"),
        schedule="cosine:warmup=0.1,floor=0.02",
        steps=300,
        eval_every=300,
        save_every=300,
    )


def tiny() -> Run:
    """A few steps of a net too small to learn, for tests."""
    blocks = (
        sk.Block(channels=16, kernel=11, stride=2),
        sk.Block(channels=16, kernel=13, repeat=2, residual=True),
        sk.Block(channels=32, kernel=1, separable=False),
    )
    run = base()
    return replace(
        run,
        model=replace(run.model, blocks=blocks, lookahead=1),
        data=replace(run.data, train=DATA / "train.jsonl"),
        start_from=None,
        steps=2,
        eval_every=2,
        save_every=2,
    )


if __name__ == "__main__":
    sk.cli.recipe(globals(), pipeline)
