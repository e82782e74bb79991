"""The report of a recogniser: error rates with counts, speakers, confidence, speed and latency."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any

from speechkit.data import Utterance, read_audio
from speechkit.decode import Decoder
from speechkit.events import Event, Final, Partial, Word
from speechkit.infer import reader_of
from speechkit.models import Model
from speechkit.models.net import Name
from speechkit.predictions import transcript_of
from speechkit.report.page import bars, curve, table
from speechkit.streaming import stream
from speechkit.tasks import metrics, outputs, task_of
from speechkit.tasks.plans import about_of

FED_S = 0.08
"""The duration of the blocks that a session is fed."""
WORST = 20
"""The utterances with the most wrong words that are shown."""


@dataclass(frozen=True)
class Delays:
    """How much sound was read after something was spoken until it was reported, in seconds.

    `first` is from the beginning of a text's first word to its first letter, `word` from the end of
    each word to the first text that contains it, `final` from the end of the last word to the final
    text.
    """

    first: tuple[float, ...] = ()
    word: tuple[float, ...] = ()
    final: tuple[float, ...] = ()


@dataclass(frozen=True)
class Result:
    """The reference of an utterance, the text recognized, its words with times, and delays."""

    utterance: Utterance
    reference: str
    text: str
    words: tuple[Word, ...]
    delays: Delays = Delays()

    @property
    def steps(self) -> list[metrics.Step]:
        """The alignment of reference and text."""
        return metrics.alignment(self.reference, self.text)

    @property
    def right(self) -> list[bool]:
        """Whether each recognized word is right."""
        return [step.kind == "equal" for step in self.steps for _ in step.hypothesis]

    @property
    def errors(self) -> int:
        """The number of substitutions, deletions and insertions."""
        wrong = (step for step in self.steps if step.kind != "equal")
        return sum(max(len(step.reference), len(step.hypothesis)) for step in wrong)


@dataclass(frozen=True)
class Recognized:
    """The result for each utterance, and the wall time that it took."""

    results: list[Result]
    wall_s: float

    @property
    def figures(self) -> dict[str, Any]:
        """Rates and counts of words, the real-time factor, calibration, and median latencies."""
        references = [h.reference for h in self.results]
        texts = [h.text for h in self.results]
        edits = metrics.word_edits(references, texts)
        found = {
            "n": len(self.results),
            "wer": edits.rate,
            "cer": metrics.cer(references, texts),
            "words": edits.units,
            "substitutions": edits.substitutions,
            "deletions": edits.deletions,
            "insertions": edits.insertions,
            "rtf": self.wall_s / sum(h.utterance.duration_s for h in self.results),
        }
        if bins := self._bins():
            found["calibration_error"] = metrics.calibration_error(bins)
        for name in ("first", "word", "final"):
            if all_s := [s for h in self.results for s in getattr(h.delays, name)]:
                found[f"{name}_latency_s"] = median(all_s)
        return found

    def sections(self) -> list[tuple[str, str]]:
        """Speakers, confidence, latencies where there are any, and the worst utterances."""
        parts = [("Speakers", self._speakers())]
        if bins := self._bins():
            largest = max(b.size for b in bins)
            points = [(b.score, b.right) for b in bins]
            sizes = [2 + 6 * (b.size / largest) ** 0.5 for b in bins]
            parts.append(("Confidence", curve(points, "score", "share of right words", sizes)))
        if any(h.delays.final for h in self.results):
            parts.append(("Latency", self._latency()))
        worst = sorted(self.results, key=lambda h: -h.errors)
        lines = [_listing(h) for h in islice(worst, WORST) if h.errors]
        return [*parts, ("Worst utterances", "\n".join(lines))]

    def scored_words(self) -> tuple[list[float], list[bool]]:
        """The score of each recognized word, and whether it is right."""
        scores = [word.score for h in self.results for word in h.words]
        return scores, [right for h in self.results for right in h.right]

    def _bins(self) -> list[metrics.Bin]:
        scores, right = self.scored_words()
        return metrics.reliability(scores, right) if scores else []

    def _speakers(self) -> str:
        groups = defaultdict(list)
        for result in self.results:
            groups[result.utterance.speaker or "unknown"].append(result)
        edits = {
            name: metrics.word_edits([h.reference for h in group], [h.text for h in group])
            for name, group in groups.items()
        }
        worst = sorted(edits.items(), key=lambda item: -item[1].rate)
        rows = []
        for name, e in worst:
            counts = len(groups[name]), e.units, e.substitutions, e.deletions, e.insertions
            rows.append((name, *map(str, counts), f"{e.rate:.4f}"))
        head = "speaker", "n", "words", "substitutions", "deletions", "insertions", "wer"
        return table(head, rows) + bars({name: e.rate for name, e in worst})

    def _latency(self) -> str:
        rows = []
        for name in ("first", "word", "final"):
            all_s = sorted(s for h in self.results for s in getattr(h.delays, name))
            at = [all_s[int(share * (len(all_s) - 1))] for share in (0.5, 0.9, 1) if all_s]
            rows.append((name, str(len(all_s)), *(f"{s:.2f}" for s in at)))
        return table(("", "n", "median s", "90 % s", "largest s"), rows)


def recognition(
    model: Model,
    utterances: Sequence[Utterance],
    decoder: Name = "greedy",
    streaming: bool = False,
) -> Recognized:
    """Evaluates a recogniser on utterances with a `text`."""
    begun_s = perf_counter()
    reader = reader_of(model, decoder)
    recognize = _streamed if streaming else _whole
    found = sorted(recognize(model, utterances, reader), key=lambda item: item[0])
    return Recognized([h for _, h in found], perf_counter() - begun_s)


def _whole(
    model: Model, utterances: Sequence[Utterance], reader: Decoder
) -> Iterator[tuple[int, Result]]:
    task = task_of(model)
    for batch, output in outputs(model, task, utterances):
        rows = zip(
            batch.indices,
            task.references(batch, output),
            output.scores.float().cpu().numpy(),
            output.lengths.tolist(),
            strict=True,
        )
        for index, reference, scores, frames in rows:
            state, _ = reader.step(reader.init(), scores[:frames])
            utterance = utterances[index]
            ids = reader.ids(state)
            found = transcript_of(about_of(model), scores[:frames], ids, utterance.duration_s)
            yield index, Result(utterance, reference, found.text, found.words)


def _streamed(
    model: Model, utterances: Sequence[Utterance], reader: Decoder
) -> Iterator[tuple[int, Result]]:
    task = task_of(model)
    for index, utterance in enumerate(utterances):
        reference = "".join(model.labels[i] for i in task.encode(utterance))
        audio = read_audio(
            utterance.audio,
            target_rate=model.sample_rate,
            offset_s=utterance.offset_s,
            duration_s=utterance.duration_s,
        )
        session = stream(model, decoder=reader, vad=None)
        events: list[Event] = []
        for part in audio.split(round(FED_S * model.sample_rate)):
            events += session.feed(part)
        events += session.finish()
        finals = [event for event in events if isinstance(event, Final)]
        text = " ".join(final.text for final in finals)
        words = tuple(word for final in finals for word in final.words)
        yield index, Result(utterance, reference, text, words, delays(events))


def delays(events: Sequence[Event]) -> Delays:
    """The latencies of a session's events."""
    first: list[float] = []
    word: list[float] = []
    final: list[float] = []
    partials: list[Partial] = []
    for event in events:
        if isinstance(event, Partial):
            partials.append(event)
        if not isinstance(event, Final) or not event.words:
            continue
        if partials:
            first.append(partials[0].decided_s - event.words[0].start_s)
        final.append(event.decided_s - event.words[-1].end_s)
        texts = event.text.split()
        for count, spoken in enumerate(event.words, start=1):
            whole = (p for p in partials if p.text.split()[:count] == texts[:count])
            word.append(next((p.decided_s for p in whole), event.decided_s) - spoken.end_s)
        partials = []
    return Delays(tuple(first), tuple(word), tuple(final))


def _listing(result: Result) -> str:
    """The words of an utterance: missed ones struck out, wrong ones highlighted."""
    parts = []
    for step in result.steps:
        right, wrong = escape(" ".join(step.reference)), escape(" ".join(step.hypothesis))
        if step.kind == "equal":
            parts.append(right)
            continue
        parts += [f"<del>{right}</del>"] if right else []
        parts += [f"<ins>{wrong}</ins>"] if wrong else []
    name = escape(f"{result.utterance.audio.name}, {result.errors} wrong")
    return f"<p><small>{name}</small><br>{' '.join(parts)}</p>"
