"""Evaluates more than the error rate: language models, hotwords, the times of words.

    python recipes/english/judge.py lm MODEL data/english/dev.jsonl LM.arpa
    python recipes/english/judge.py hotwords MODEL data/an4/dev.jsonl
    python recipes/english/judge.py times MODEL data/english/dev.jsonl TEACHER

Prints the tables of RESULTS.md.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import speechkit as sk
from speechkit.component import Spec
from speechkit.data import read_audio, read_manifest
from speechkit.infer import align_text
from speechkit.models import Model
from speechkit.plugins import registry
from speechkit.tasks import metrics

HOTWORDS = ["rubout", "erase", "enter", "repeat", "start", "stop", "help"]
"""Commands of AN4."""


class Outputs:
    """A model's log-probabilities for a manifest, for several decoders."""

    def __init__(self, model: Model, manifest: Path) -> None:
        self.labels, self.frame_s = model.labels, model.frame_s
        utterances = read_manifest(manifest)
        self.texts = [u.text or "" for u in utterances]
        ready = sk.prepare(model)
        outputs = [
            ready(read_audio(u.audio, target_rate=model.sample_rate)[None]) for u in utterances
        ]
        self.log_probs = [
            output.scores[0, : output.lengths[0]].numpy(force=True) for output in outputs
        ]

    def decode(self, decoder: str, **params: Any) -> tuple[list[str], float]:
        """The texts, and how many times faster than real time they were decoded."""
        reader = registry().build("decoder", Spec(decoder, params), self.labels)
        begun_s = perf_counter()
        texts = []
        for log_probs in self.log_probs:
            state, _ = reader.step(reader.init(), log_probs)
            texts.append(reader.finish(state).strip())
        sound_s = sum(map(len, self.log_probs)) * self.frame_s
        return texts, sound_s / (perf_counter() - begun_s)


def lm(model: Model, manifest: Path, arpa: Path) -> Iterator[tuple[str, ...]]:
    """Error rates and speed with and without a language model, by its weights."""
    outputs = Outputs(model, manifest)
    yield "decoder", "dev WER", "dev CER", "times real time"
    ways: list[dict[str, Any]] = [{}]
    for alpha, bonus, unk in product((0.3, 0.5), (0.0, 1.0), (-3.0, -5.0)):
        ways.append({"lm": str(arpa), "alpha": alpha, "length_bonus": bonus, "unk_score": unk})
    for decoder, params in (("greedy", {}), *(("beam", way) for way in ways)):
        texts, speed = outputs.decode(decoder, **params)
        wer, cer = metrics.wer(outputs.texts, texts), metrics.cer(outputs.texts, texts)
        yield str(Spec(decoder, params)), f"{wer:.4f}", f"{cer:.4f}", f"{speed:.0f}"


def hotwords(model: Model, manifest: Path) -> Iterator[tuple[str, ...]]:
    """Recall and precision of the commands, by boost."""
    outputs = Outputs(model, manifest)
    yield "boost", "recall", "precision", "WER"
    for boost in (0.0, 2.0, 5.0, 10.0):
        texts, _ = outputs.decode("beam", hotwords=HOTWORDS, hotword_boost=boost)
        spoken = found = transcribed = 0
        for reference, text in zip(outputs.texts, texts, strict=True):
            for step in metrics.alignment(reference, text):
                ours, theirs = (
                    sum(word in HOTWORDS for word in words)
                    for words in (step.reference, step.hypothesis)
                )
                spoken, transcribed = spoken + ours, transcribed + theirs
                found += ours if step.kind == "equal" else 0
        wer = metrics.wer(outputs.texts, texts)
        yield f"{boost:g}", f"{found}/{spoken}", f"{found}/{transcribed}", f"{wer:.4f}"


def times(model: Model, manifest: Path, teacher: Path) -> Iterator[tuple[str, ...]]:
    """Distances of correct words' times from the teacher's alignment of the transcript."""
    ready, aligner = sk.prepare(model), sk.prepare(sk.load(teacher))
    off_ms: dict[str, list[float]] = {"begin": [], "end": []}
    for utterance in read_manifest(manifest):
        read = sk.transcribe(ready, utterance.audio, vad=None)
        known = align_text(aligner, utterance.audio, utterance.text or "")
        ours, theirs = iter(read.words), iter(known.words)
        for step in metrics.alignment(known.text, read.text):
            expected = [next(theirs) for _ in step.reference]
            found = [next(ours) for _ in step.hypothesis]
            if step.kind == "equal":
                for a, b in zip(found, expected, strict=True):
                    off_ms["begin"].append(1000 * (a.start_s - b.start_s))
                    off_ms["end"].append(1000 * (a.end_s - b.end_s))
    yield "edge", "words", "median error, ms", "90 %, ms", "median difference, ms"
    for edge, values in off_ms.items():
        errors = sorted(map(abs, values))
        nine = errors[len(errors) * 9 // 10]
        yield (
            edge,
            f"{len(errors)}",
            f"{median(errors):.0f}",
            f"{nine:.0f}",
            f"{median(values):.0f}",
        )


if __name__ == "__main__":
    what, folder, manifest, *more = sys.argv[1:]
    judges: dict[str, Callable[..., Iterator[tuple[str, ...]]]] = {
        "lm": lm,
        "hotwords": hotwords,
        "times": times,
    }
    for number, row in enumerate(judges[what](sk.load(folder), Path(manifest), *map(Path, more))):
        print(f"| {' | '.join(row)} |", flush=True)
        if number == 0:
            print("|---" * len(row) + "|", flush=True)
