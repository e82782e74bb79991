"""Voice activity on the dev scenes of recipes/vad: `vad`, silero-vad 6 and webrtcvad in one table.

    make bench-vad                                        # the bundled model
    python benchmarks/vad.py [MANIFEST [MODEL ...]]       # models by name or folder

Needs the extra `bench`. Prints the table and writes runs/bench-vad.json.
"""

import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

    labels: list[Tensor]
    scores: list[Tensor]
    decisions: list[Tensor]
    onset_s: list[float]
    offset_s: list[float]
    onsets: int = 0


@torch.inference_mode()
def measure(detector: Detector, scenes: list[Utterance]) -> dict[str, Any]:
    """The figures of a detector overall, and its AUC in each condition."""
    tallies: dict[str, Tally] = defaultdict(lambda: Tally([], [], [], [], []))
    spent_s = 0.0
    for scene in scenes:
        x = read_audio(scene.audio)
        began = time.thread_time()
        probabilities = detector.probabilities(x)
        spent_s += time.thread_time() - began
        found = vad.segments(probabilities.tolist(), detector.frame_s, detector.post)
        frames = round(scene.duration_s / GRID_S - 0.5)
        at = (torch.arange(frames).double() * GRID_S / detector.frame_s + 1e-6).long()
        scores = probabilities[at.clamp(max=len(probabilities) - 1)].double()
        onsets, offsets = edges(scene.segments or (), scene.duration_s)
        rule = detector.post.rule(detector.frame_s)
        late = rule.shortest + rule.before + detector.delay_frames
        starts = [start + late * detector.frame_s for start, _ in found]
        # an end is decided when the gap is as long as it must be
        late = rule.gap - rule.after + detector.delay_frames
        ends = [end + late * detector.frame_s for _, end in found]
        for name in conditions(scene):
            tally = tallies[name]
            tally.labels.append(inside(scene.segments or (), frames))
            tally.scores.append(scores)
            tally.decisions.append(inside(found, frames))
            tally.onset_s += metrics.delays_s(onsets, starts)
            tally.offset_s += metrics.delays_s(offsets, ends)
            tally.onsets += len(onsets)
    figures = {name: summary(tally) for name, tally in sorted(tallies.items())}
    heard_s = sum(scene.duration_s for scene in scenes)
    return {"seconds per second": round(spent_s / heard_s, 5), **figures}


def summary(tally: Tally) -> dict[str, Any]:
    labels = torch.cat(tally.labels)
    both = bool(labels.any()) and not bool(labels.all())
    figures: dict[str, Any] = {"hours": round(len(labels) * GRID_S / 3600, 2)}
    if both:
        figures["auc"] = round(metrics.auc(labels.long(), torch.cat(tally.scores)), 4)
    figures["f1"] = round(metrics.f1(labels, torch.cat(tally.decisions)), 4)
    figures["false alarms"] = round(torch.cat(tally.decisions)[~labels].double().mean().item(), 4)
    for name, delays in (("onset", tally.onset_s), ("offset", tally.offset_s)):
        if delays:
            figures[f"{name} ms"] = round(1000 * median(delays))
            figures[f"{name} ms 90 %"] = round(1000 * float(np.quantile(delays, 0.9)))
    if tally.onsets:
        figures["onsets found"] = round(len(tally.onset_s) / tally.onsets, 3)
    return figures


def conditions(scene: Utterance) -> Iterator[str]:
    """`all`, and the recipe's labels of the scene: its corpus, room, noise and level."""
    yield "all"
    for key, value in (part.split("=") for part in (scene.label or "").split()):
        if key in ("snr", "level"):
            low = int(value) // 10 * 10
            value = f"{low}..{low + 10} dB"
        yield f"{key} {value}"


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


def main(manifest: str = "data/vad/dev.jsonl", *models: str) -> None:
    # clipped scenes are part of the set
    warnings.simplefilter("ignore", AudioWarning)
    scenes = read_manifest(manifest)
    detectors = {name: ours(name) for name in models or ("vad", "vad_causal")}
    for name, detector in detectors.items():
        check_stream(name, detector, scenes)
    detectors |= {"silero-vad 6": silero(), "webrtcvad": webrtc()}
    results = {name: measure(detector, scenes) for name, detector in detectors.items()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print_table(results)


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Overall figures first, then the AUC of each condition."""
    names = list(results)
    rows = [("", names)]
    overall = {key for figures in results.values() for key in figures["all"]}
    rows += [(key, [results[n]["all"].get(key, "") for n in names]) for key in sorted(overall)]
    rows += [("cpu s per s", [results[n]["seconds per second"] for n in names])]
    for name in next(iter(results.values())):
        if name not in ("all", "seconds per second"):
            cells = [results[n][name] for n in names]
            key = "auc" if "auc" in cells[0] else "false alarms"
            rows.append((f"{name} {key}", [cell.get(key, "") for cell in cells]))
    for head, cells in rows:
        print(f"{head:32}" + "".join(f"{cell!s:>16}" for cell in cells))


if __name__ == "__main__":
    main(*sys.argv[1:])
