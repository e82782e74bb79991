"""Voice activity in the conditions of recipes/vad: `vad`, `vad_causal`, silero-vad 6, webrtcvad.

    make bench-vad                                        # the bundled models
    python -m benchmarks.vad [MANIFEST [MODEL ...]]       # models by name or folder

Needs the extra `bench`. Prints a table for each figure and writes runs/bench-vad.json. MANIFEST is
data/vad/conditions.jsonl, or data/vad/dev.jsonl for the scenes of training. A condition is a
`key=value` of a line's label, such as `test=gsm`; a line may have several.
"""

import json
import math
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import speechkit as sk
from speechkit.data import AudioWarning, Utterance, read_audio, read_manifest
from speechkit.events import SpeechStart
from speechkit.rules import vad
from speechkit.tasks import metrics

RESULT = Path("runs/bench-vad.json")
GRID_S = 0.01
PAUSE_S = 0.5
CHECKED_SCENES = 10
"""The number of scenes that are also streamed; their starts must equal the computed ones."""
FARTHEST_S = 1.0
"""An onset or offset that is farther from the found ones than this is missed."""
FIGURES = (
    "auc",
    "false alarms an hour; non-speech called speech",
    "speech missed",
    "onset error ms; onset error ms, 90 %",
    "offset error ms; offset error ms, 90 %",
)
"""What is printed; the file has more: delays in a stream, the share of onsets found, F1."""


@dataclass(frozen=True)
class Detector:
    """A speech detector: probabilities `[T]` of a recording `[N]`, and its default rule.

    Frame t is known after (t + 1 + delay_frames) · frame_s seconds of audio.
    """

    probabilities: Callable[[Tensor], Tensor]
    frame_s: float
    delay_frames: int
    post: vad.PostProcessing


def ours(name: str) -> Detector:
    """A model of this toolkit."""
    model = sk.load(name)

    def probabilities(x: Tensor) -> Tensor:
        output = model(x[None])
        speech: Tensor = output.scores[0, : output.lengths[0]].softmax(1)[:, 1]
        return speech

    delay = round(model.latency_s / model.frame_s)
    return Detector(probabilities, model.frame_s, delay, model.config.rule(vad.PostProcessing))


def silero() -> Detector:
    """silero-vad's own TorchScript; the thresholds are those of its VADIterator."""
    found = find_spec("silero_vad")
    assert found is not None
    assert found.origin is not None
    # not through the package, which imports torchaudio
    net = torch.jit.load(str(Path(found.origin).parent / "data" / "silero_vad.jit"))

    def probabilities(x: Tensor) -> Tensor:
        net.reset_states()
        windows = torch.nn.functional.pad(x, (0, -len(x) % 512)).split(512)
        return torch.cat([net(window[None], 16000)[0] for window in windows])

    post = vad.PostProcessing(onset=0.5, offset=0.35, min_speech_ms=0, min_silence_ms=100)
    return Detector(probabilities, 512 / 16000, 0, post)


def webrtc() -> Detector:
    """The share of webrtcvad's four modes that return speech, every 10 ms; mode 2 decides."""
    import webrtcvad

    def probabilities(x: Tensor) -> Tensor:
        pcm = (x * 32767).to(torch.int16).numpy()
        frames = [f.tobytes() for f in np.split(pcm[: len(pcm) // 160 * 160], len(pcm) // 160)]
        votes = torch.zeros(len(frames))
        for mode in range(4):
            one = webrtcvad.Vad(mode)
            votes += torch.tensor([one.is_speech(f, 16000) for f in frames])
        return votes / 4

    post = vad.PostProcessing(onset=0.75, offset=0.75, min_speech_ms=0, min_silence_ms=0)
    return Detector(probabilities, GRID_S, 0, post)


@dataclass
class Tally:
    """A detector's results on the scenes of one condition."""

    labels: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    decisions: list[Tensor] = field(default_factory=list)
    false_alarms: int = 0
    onsets: int = 0
    times_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The errors of onsets and offsets, and their delays in a stream."""


@torch.inference_mode()
def measure(detector: Detector, scenes: list[Utterance]) -> dict[str, Any]:
    """The figures of a detector in each condition."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    spent_s = 0.0
    rule = detector.post.rule(detector.frame_s)
    # an end is decided when the gap is as long as it must be
    late_s = (
        (rule.shortest + rule.before + detector.delay_frames) * detector.frame_s,
        (rule.gap - rule.after + detector.delay_frames) * detector.frame_s,
    )
    for scene in scenes:
        x = read_audio(scene.audio)
        began = time.thread_time()
        probabilities = detector.probabilities(x)
        spent_s += time.thread_time() - began
        found = vad.segments(probabilities.tolist(), detector.frame_s, detector.post)
        frames = round(scene.duration_s / GRID_S - 0.5)
        at = (torch.arange(frames).double() * GRID_S / detector.frame_s + 1e-6).long()
        truth = scene.segments or ()
        for name in conditions(scene):
            tally = tallies[name]
            tally.labels.append(inside(truth, frames))
            tally.scores.append(probabilities[at.clamp(max=len(probabilities) - 1)].double())
            tally.decisions.append(inside(found, frames))
            tally.false_alarms += sum(
                not any(a < end and start < b for a, b in truth) for start, end in found
            )
            for which, places in enumerate(edges(truth, scene.duration_s)):
                kind = ("onset", "offset")[which]
                ours = [pair[which] for pair in found]
                later = [place + late_s[which] for place in ours]
                tally.times_s[f"{kind} error"] += errors_s(places, ours)
                tally.times_s[f"{kind} delay"] += metrics.delays_s(places, later)
                tally.onsets += len(places) if kind == "onset" else 0
    figures = {name: summary(tally) for name, tally in tallies.items()}
    heard_s = sum(scene.duration_s for scene in scenes)
    return {"seconds per second": round(spent_s / heard_s, 5), **figures}


def errors_s(places_s: list[float], found_s: list[float]) -> list[float]:
    """How far the nearest found time is from each place, where that is a second at most."""
    errors = [min((abs(f - place) for f in found_s), default=math.inf) for place in places_s]
    return [error for error in errors if error <= FARTHEST_S]


def summary(tally: Tally) -> dict[str, Any]:
    """The figures of one condition: shares of time, ms, and false alarms an hour without speech."""
    labels, decisions = torch.cat(tally.labels), torch.cat(tally.decisions)
    figures: dict[str, Any] = {"hours": round(len(labels) * GRID_S / 3600, 3)}
    if not labels.all():
        quiet_h = int((~labels).sum()) * GRID_S / 3600
        figures["false alarms an hour"] = round(tally.false_alarms / quiet_h)
        figures["non-speech called speech"] = share(decisions[~labels])
    if labels.any():
        figures["speech missed"] = share(~decisions[labels])
        figures["f1"] = round(metrics.f1(labels, decisions), 4)
        if not labels.all():
            figures["auc"] = round(metrics.auc(labels.long(), torch.cat(tally.scores)), 4)
    for name, times_s in tally.times_s.items():
        if times_s:
            figures[f"{name} ms"] = round(1000 * median(times_s))
            figures[f"{name} ms, 90 %"] = round(1000 * float(np.quantile(times_s, 0.9)))
    if tally.onsets:
        figures["onsets found"] = round(len(tally.times_s["onset error"]) / tally.onsets, 3)
    return figures


def share(chosen: Tensor) -> float:
    return round(chosen.double().mean().item(), 4)


def conditions(scene: Utterance) -> Iterator[str]:
    """What the label of a scene lists, such as `test gsm`; levels and ratios in steps of 10 dB."""
    for key, value in (part.split("=") for part in (scene.label or "").split()):
        if key in ("snr", "level"):
            low = int(value) // 10 * 10
            value = f"{low}..{low + 10} dB"
        yield f"{key} {value}"
    yield "all"


def edges(segments: Any, duration_s: float) -> tuple[list[float], list[float]]:
    """The onsets after, and the offsets before, a pause of PAUSE_S at least."""
    # a recording that begins with speech has no pause before it
    ends = [0.0, *(b for _, b in segments)]
    starts = [*(a for a, _ in segments), duration_s]
    pauses = [(b, a) for b, a in zip(ends, starts, strict=True) if a - b >= PAUSE_S]
    return [a for _, a in pauses if a < duration_s], [b for b, _ in pauses if b > 0]


def inside(segments: Any, frames: int) -> Tensor:
    """True for each 10 ms that begins in a segment, `[frames]` bool."""
    at_s = torch.arange(frames).double() * GRID_S
    bounds = torch.tensor(segments, dtype=torch.float64).reshape(-1, 2)
    return ((bounds[:, :1] - 3e-5 <= at_s) & (at_s < bounds[:, 1:] - 3e-5)).any(0)


def check_stream(name: str, detector: Detector, scenes: list[Utterance]) -> None:
    """Raises AssertionError unless a stream's starts have the times that `measure` computes."""
    model = sk.load(name)
    rule = detector.post.rule(detector.frame_s)
    late = rule.shortest + rule.before + detector.delay_frames
    for scene in scenes[:CHECKED_SCENES]:
        x = read_audio(scene.audio)
        stream = sk.stream(model)
        events = [event for part in x.split(160) for event in stream.feed(part)]
        events += stream.finish()
        streamed = [event.decided_s for event in events if isinstance(event, SpeechStart)]
        with torch.inference_mode():
            found = vad.segments(
                detector.probabilities(x).tolist(), detector.frame_s, detector.post
            )
        computed = [start + late * detector.frame_s for start, _ in found]
        np.testing.assert_allclose(streamed, np.minimum(computed, scene.duration_s), atol=1e-6)


def main(manifest: str = "data/vad/conditions.jsonl", *models: str) -> None:
    # clipped scenes are part of the set
    warnings.simplefilter("ignore", AudioWarning)
    if not Path(manifest).is_file():
        sys.exit(f"no {manifest}; type: python recipes/vad/conditions.py data/vad FOLDER MODEL")
    scenes = read_manifest(manifest)
    detectors = {name: ours(name) for name in models or ("vad", "vad_causal")}
    for name, detector in detectors.items():
        check_stream(name, detector, scenes)
    detectors |= {"silero-vad 6": silero(), "webrtcvad": webrtc()}
    results = {name: measure(detector, scenes) for name, detector in detectors.items()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n\n".join(tables(results)))


def tables(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A table of Markdown for each figure: a row a condition, a column a detector."""
    names = list(results)
    head = f"| {' | '.join(names)} |\n|---|{'---|' * len(names)}"
    seconds = [str(results[name]["seconds per second"]) for name in names]
    yield f"| {head}\n| CPU seconds per second | {' | '.join(seconds)} |"
    rows = [key for key in results[names[0]] if key not in ("seconds per second", "all")]
    # kinds of a condition, such as `test music:folk`, after it
    first = [row.split(":")[0] for row in rows]
    rows = [*sorted(rows, key=lambda row: (first.index(row.split(":")[0]), row)), "all"]
    for figure in FIGURES:
        cells = {
            row: [[results[name][row].get(key) for key in figure.split("; ")] for name in names]
            for row in rows
        }
        lines = [
            f"| {row} | {' | '.join(' / '.join(map(written, cell)) for cell in found)} |"
            for row, found in cells.items()
            if any(value is not None for cell in found for value in cell)
        ]
        if figure == "auc":
            for part in sorted({row.split()[0] for row in rows} - {"all"}):
                means = (mean_auc(results[name], part) for name in names)
                lines.append(f"| mean of {part} | {' | '.join(means)} |")
        yield f"| {figure} {head}\n" + "\n".join(lines)


def written(value: float | None) -> str:
    return "" if value is None else str(value)


def mean_auc(figures: dict[str, Any], part: str) -> str:
    """The mean over the conditions whose names begin with a word, such as `test`."""
    found = [own["auc"] for row, own in figures.items() if row.split()[0] == part and "auc" in own]
    return f"{np.mean(found):.4f}" if found else ""


if __name__ == "__main__":
    main(*sys.argv[1:])
