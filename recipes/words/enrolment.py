"""Measures the transform `enrol` of speechkit-heads: new words from five clips of each.

    python recipes/words/enrolment.py MODEL FOLDER SECONDS LABEL ...

The clips of the labels are those of the test part, and three draws choose the five. Speakers of a
drawn clip are left out of the test. Other speech is SECONDS of the dev part. Prints, for all labels
at once and for each alone, what the model finds and takes for a word before and after.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import corpora
import numpy as np
import torch
from judge import without_words, words_of
from speechkit_heads.embeddings import Embeddings
from spotting import events
from surroundings import RATE, Sound, sound

import speechkit as sk
from speechkit.data import Utterance
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.rules.probability import softmax
from speechkit.rules.spotting import Spotting
from speechkit.transforms import transform

CLIPS = 5
DRAWS = 3
PIECE_S = 60
AROUND_S = 0.6
"""Near silence before and after a clip in a stream."""

Clip = tuple[Utterance, torch.Tensor, torch.Tensor]
"""An utterance, its embedding `[C]`, and the embeddings of a stream over it `[T, C]`."""


def drawn(clips: Sequence[Clip], labels: Sequence[str], seed: int) -> list[Clip]:
    """CLIPS clips of each label, each of another speaker."""
    chance, found = np.random.default_rng(seed), []
    for label in labels:
        own = [clip for clip in clips if clip[0].label == label]
        speakers = sorted({str(clip[0].speaker) for clip in own})
        for speaker in chance.permutation(speakers)[:CLIPS]:
            found.append(next(clip for clip in own if clip[0].speaker == speaker))
    return found


def other_speech(source: Path, left_s: float) -> list[Utterance]:
    """So many seconds of the dev part, as `unknown`."""
    found: list[Utterance] = []
    for part, clip in corpora.talk(source):
        if part == "dev" and clip.text and left_s > 0:
            found.append(
                Utterance(
                    audio=clip.audio,
                    duration_s=min(left_s, clip.duration_s),
                    label=corpora.UNKNOWN,
                )
            )
            left_s -= found[-1].duration_s
    return found


class Judge:
    """A model's embeddings of the test part, from which all heads are measured."""

    def __init__(self, model: Model, source: Path) -> None:
        self.model, self.embed = model, Embeddings(model, "enrol")
        chance = np.random.default_rng(0)
        self.clips: list[Clip] = []
        for part, utterance in corpora.single_words(source):
            x = sound(utterance)
            if part == "test" and len(x) >= RATE / 4:
                y = np.pad(x, round(AROUND_S * RATE)) + chance.normal(0, 3e-4, len(x) + 2 * 4800)
                clip = self.embed.clip(torch.from_numpy(x).float())
                self.clips.append((utterance, clip, self.windows(y)))
        found = without_words(source, "test")
        self.sounds = {kind: (self.windows(x), len(x) / RATE / 3600) for kind, x in found.items()}

    def windows(self, x: Sound) -> torch.Tensor:
        parts = torch.from_numpy(x).float().split(PIECE_S * RATE)
        return torch.cat([self.embed.windows(part) for part in parts if len(part) > RATE / 10])

    def measure(self, model: Model, new: Sequence[str], test: list[Clip]) -> dict[str, float]:
        """Shares, and events per hour, for a model that has the labels `new`, or none of them."""
        embed, words = Embeddings(model, "enrol"), words_of(model)
        found: dict[str, list[float]] = defaultdict(list)
        for utterance, clip, stream in test:
            scores = embed.logits(clip[None])[0]
            label = model.labels[int(scores.argmax())]
            kind = "new" if utterance.label in new else "old"
            if utterance.label not in words:
                found["others rejected"].append(label not in words)
                continue
            found[f"{kind} words"].append(label == utterance.label)
            p = softmax(embed.logits(stream).numpy())
            heard = {event.label for event in events(model, p, model.rule(Spotting))}
            found[f"{kind} words, stream"].append(utterance.label in heard)
            if kind == "new":
                rows = [model.labels.index(name) for name in new]
                best = new[int(scores[rows].argmax())]
                found["new words, among them"].append(best == utterance.label)
        result = {name: float(np.mean(values)) for name, values in found.items()}
        hours = 0.0
        count = {"new": 0, "old": 0}
        for windows, lasts_h in self.sounds.values():
            hours += lasts_h
            for event in events(
                model, softmax(embed.logits(windows).numpy()), model.rule(Spotting)
            ):
                count["new" if event.label in new else "old"] += 1
        return result | {f"false {kind} per hour": n / hours for kind, n in count.items()}


def nearest(clips: list[Clip], test: list[Clip], labels: Sequence[str]) -> dict[str, float]:
    """The control: the label whose mean embedding is the nearest, by distance or by cosine."""
    means = torch.stack(
        [torch.stack([x for u, x, _ in clips if u.label == name]).mean(0) for name in labels]
    )
    own = [(labels.index(str(u.label)), x) for u, x, _ in test if u.label in labels]
    x = torch.stack([embedded for _, embedded in own])
    scores = {
        "nearest mean": -torch.cdist(x, means),
        "cosine": torch.cosine_similarity(x[:, None], means[None], dim=2),
    }
    right = torch.tensor([index for index, _ in own])
    return {name: (s.argmax(1) == right).double().mean().item() for name, s in scores.items()}


def main(name: str, source: Path, talk_s: float, labels: list[str]) -> None:
    model = sk.load(name).eval()
    judge, talk = Judge(model, source), other_speech(source, talk_s)
    print({label: sum(u.label == label for u, *_ in judge.clips) for label in labels})
    print("before", judge.measure(model, (), judge.clips), flush=True)
    for words, draws in (labels, DRAWS), *(([label], 1) for label in labels):
        for seed in range(draws):
            clips = drawn(judge.clips, words, seed)
            speakers = {u.speaker for u, *_ in clips}
            test = [clip for clip in judge.clips if clip[0].speaker not in speakers]
            examples = Examples(model, [*(u for u, *_ in clips), *talk], seed=seed)
            made, _ = transform(model, ["enrol"], examples)
            row = judge.measure(made, words, test) | nearest(clips, test, words)
            print(" ".join(words), seed, {k: round(v, 3) for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(f"{__doc__}\ngive MODEL FOLDER SECONDS LABEL ...")
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
