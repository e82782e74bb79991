"""Chooses the rule by which a stream reports a word, on speakers and sounds of the dev part.

    python recipes/words/spotting.py runs/digits/best FOLDER

Of the rules with at most MOST_FALSE false words per hour of talk, music and noise, the best finds
the most words. If all rules have more false words, the limit is a tenth above the fewest. Prints
the best five and writes the best one into the model.
"""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import corpora
import numpy as np
import torch
from judge import SNRS_DB, Spoken, conversation, delays, without_words, words_of
from numpy.typing import NDArray
from surroundings import RATE, Sound, surroundings

import speechkit as sk
from speechkit.events import Keyword
from speechkit.models import Model
from speechkit.rules.probability import softmax
from speechkit.rules.spotting import Spotting, State, advance

MOST_FALSE = 3.0
"""False words per hour of the dev part; there may be more in other sound."""
WINDOWS_S = (0.5, 0.7, 0.9)
THRESHOLDS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
HOLDS_MS = (60.0, 120.0, 200.0)
PIECE_S = 60

Probabilities = NDArray[np.float64]


@torch.inference_mode()
def probabilities(model: Model, x: Sound, window_s: float) -> Probabilities:
    """The probability of each label at each frame, over the last `window_s` seconds, `[T, n]`."""
    pieces = torch.from_numpy(x).float().split(PIECE_S * RATE)
    found = [model.sliding(piece[None], window_s).scores[0] for piece in pieces]
    return softmax(torch.cat(found).numpy())


def events(model: Model, p: Probabilities, rule: Spotting) -> list[Keyword]:
    """The words that a stream with these probabilities reports."""
    words, state, found = words_of(model), State(), []
    reported = np.array([i if label in words else -1 for i, label in enumerate(model.labels)])
    best, score = reported[p.argmax(1)], p.max(1)
    # after a pause the rule's state is that of the start, so other frames change nothing
    pause = round(rule.pause_ms / 1000 / model.frame_s)
    above = (best >= 0) & (score >= rule.threshold)
    for frame in np.flatnonzero(np.convolve(above, np.ones(pause + 2))[: len(p)]):
        label = int(best[frame])
        state, detected = advance(rule, model.frame_s, state, label, float(score[frame]))
        if detected:
            at_s = (int(frame) + 1) * model.frame_s
            found.append(
                Keyword(model.labels[label], float(score[frame]), at_s, at_s + model.latency_s)
            )
    return found


Result = tuple[float, float, Spotting]
"""The share of words found, false words per hour, and the rule."""


def search(model: Model, source: Path) -> list[Result]:
    """Every rule, the best first."""
    around = surroundings(source, "dev", np.random.default_rng(0))
    words = words_of(model)
    clips = [c for part, c in corpora.single_words(source) if part == "dev" and c.label in words]
    if not clips:
        sys.exit(f"{source} has no words of the part dev; README.md names the corpora")
    talks: list[tuple[Sound, Spoken]] = [conversation(clips, around, db) for db in SNRS_DB]
    empty = np.concatenate(list(without_words(source, "dev").values()))
    results: list[Result] = []
    for window_s in WINDOWS_S:
        heard = [(probabilities(model, x, window_s), spoken) for x, spoken in talks]
        silent = probabilities(model, empty, window_s)
        for threshold, hold_ms in product(THRESHOLDS, HOLDS_MS):
            rule = replace(
                model.rule(Spotting), window_s=window_s, threshold=threshold, hold_ms=hold_ms
            )
            found = [len(delays(events(model, p, rule), spoken)) for p, spoken in heard]
            false = len(events(model, silent, rule)) / (len(empty) / RATE / 3600)
            results.append((sum(found) / (2 * len(clips)), false, rule))
    return ranked(results)


def ranked(results: list[Result]) -> list[Result]:
    """The rules by their false words above the limit, then by the words that they find."""
    limit = max(MOST_FALSE, 1.1 * min(false for _, false, _ in results))
    return sorted(results, key=lambda r: (max(r[1], limit), -r[0], r[1]))


def main(folder: Path, source: Path) -> None:
    model = sk.load(folder)
    best = search(model, source)
    for found, false, rule in best[:5]:
        print(f"found {found:.3f}, {false:.1f} false per hour: {rule}")
    sk.save(model.with_(spotting=best[0][2]), folder)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"{__doc__}\ngive MODEL FOLDER")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
