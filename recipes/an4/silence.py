"""Words that a recogniser writes in recordings without speech, offline and live.

    python recipes/an4/silence.py an4 data/vad/conditions.jsonl test

The manifest is that of recipes/vad/conditions.py; only the lines of a part without speech count.
Live, all recordings are one stream. Prints the words of each condition, without and with the vad.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import speechkit as sk
from speechkit.data import read_audio, read_manifest
from speechkit.errors import ManifestError
from speechkit.events import Final
from speechkit.plans.source import ModelSource

RATE = 16000
CHUNK = 1280
MADE_S, MADE_DB = 10, (-90, -75, -60, -45, -30, -15)

Sound = NDArray[np.float32]
Sounds = list[tuple[str, Sound]]


def sounds(manifest: Path, part: str) -> Iterator[tuple[str, Sound]]:
    """The condition and the sound of each recording, then silence, dither and white noise."""
    rows = [
        (condition, row.audio)
        for row in read_manifest(manifest)
        for found, _, condition in [(row.label or "").partition(" ")[0].partition("=")]
        if found == part and not row.segments
    ]
    if not rows:
        raise ManifestError(f"{manifest} has no recordings without speech of the part {part!r}")
    for condition, audio in rows:
        yield condition, read_audio(audio, target_rate=RATE).numpy()
    chance, samples = np.random.default_rng(len(part)), MADE_S * RATE
    yield "silence", np.zeros(samples, np.float32)
    yield "dither", (chance.integers(-1, 2, samples) / 2**15).astype(np.float32)
    for level_db in MADE_DB:
        noise = chance.standard_normal(samples) * 10 ** (level_db / 20)
        yield "white_noise", noise.astype(np.float32)


def offline(model: ModelSource, found: Sounds, vad: str | None) -> Counter[str]:
    """The number of words of each condition."""
    counts: Counter[str] = Counter()
    for condition, x in found:
        counts[condition] += len(sk.transcribe(model, x, RATE, vad=vad).words)
    return counts


def live(model: ModelSource, found: Sounds, vad: str | None) -> Counter[str]:
    """The same for final texts, by the time at which each was final."""
    session, counts = sk.stream(model, RATE, vad=vad), Counter[str]()
    for condition, x in found:
        for at in range(0, len(x), CHUNK):
            for event in session.feed(x[at : at + CHUNK]):
                counts[condition] += len(event.words) if isinstance(event, Final) else 0
    counts[condition] += sum(len(e.words) for e in session.finish() if isinstance(e, Final))
    return counts


def main(name: str, manifest: str, part: str) -> None:
    model, found = sk.prepare(sk.load(name)), list(sounds(Path(manifest), part))
    columns = {
        f"{how.__name__}, {'vad' if vad else 'no vad'}": how(model, found, vad)
        for how in (offline, live)
        for vad in (None, "vad")
    }
    seconds: Counter[str] = Counter()
    for condition, x in found:
        seconds[condition] += round(len(x) / RATE)
    print(line("condition", "minutes", *columns), line(*["---"] * (len(columns) + 2)), sep="\n")
    for condition, length_s in sorted(seconds.items()):
        words = [counts[condition] for counts in columns.values()]
        if any(words):
            print(line(condition, f"{length_s / 60:.1f}", *words))
    totals = (sum(counts.values()) for counts in columns.values())
    print(line("all", f"{sum(seconds.values()) / 60:.1f}", *totals))


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"{__doc__}\ngive MODEL MANIFEST PART")
    main(*sys.argv[1:])
