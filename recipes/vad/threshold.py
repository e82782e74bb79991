"""The thresholds of a trained model: the best frame F1 on dev within two limits.

    python recipes/vad/threshold.py runs/vad/best data/vad/dev.jsonl 0.15 0.015 [LOWER_DB]

The limits are the median delay of onsets in seconds, and the share of the time that is called
speech in recordings without any. Writes the best post-processing into the model, which it stores
in float16, and prints the best few. With LOWER_DB the model first becomes less sensitive: a sound
then has about the scores that a sound LOWER_DB quieter had before.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import speechkit as sk
from speechkit.checkpoint import save
from speechkit.component import Spec
from speechkit.data import Segments, read_audio, read_manifest
from speechkit.frontend.normalize import PCENAndLevel
from speechkit.models import Model
from speechkit.rules import vad
from speechkit.tasks import metrics

PAUSE_S = 0.5
"""The delay is measured at onsets after a pause of this length."""


def lowered(model: Model, db: float) -> Model:
    """A model with the front end of `run.py`, made less sensitive by `db` decibels.

    The gain of PCEN is nearly 1, so its output depends on the level of the sound by epsilon alone.
    The other features are the level minus an offset. So only epsilon and the offset change. The
    floor of the energies stays, so near it the model does not treat the sound as quieter.
    """
    (layer,) = (each for each in model.modules() if isinstance(each, PCENAndLevel))
    moved = {
        "epsilon": layer.pcen.epsilon * 10 ** (db / 10),
        "offset": layer.offset + db / 10 * math.log(10),
    }
    frontend = Spec.parse(model.config.frontend)
    normalize = Spec.parse(frontend.params["normalize"])
    if normalize.params.keys() & moved.keys():
        sys.exit("the model is already less sensitive than in training; leave LOWER_DB out")
    normalize = replace(normalize, params={**normalize.params, **moved})
    params = {**frontend.params, "normalize": normalize}
    new = sk.build(replace(model.config, frontend=replace(frontend, params=params)))
    new.load_state_dict(model.state_dict())
    return new.eval()


@dataclass(frozen=True)
class Scene:
    """One recording's probabilities `[T]` and labels `[T]`, every `frame_s`, and its onsets."""

    probabilities: list[float]
    labels: Tensor
    onsets_s: list[float]


@dataclass(frozen=True)
class Trial:
    """The results of one post-processing on the dev set."""

    post: vad.PostProcessing
    f1: float
    onset_delay_s: float
    false_share: float
    starts: int


def search(model: Model, manifest: Path, limit_s: float, most_false: float) -> list[Trial]:
    """The trials within both limits, the best F1 first."""
    scenes = [scene(model, read_audio(u.audio), u.segments or ()) for u in read_manifest(manifest)]
    if not any(each.onsets_s for each in scenes):
        sys.exit(
            f"{manifest} has no speech after {PAUSE_S:g} s without any, so onsets have no delay"
        )
    if all(each.labels.any() for each in scenes):
        sys.exit(
            f"{manifest} has no recording without speech, so there is no share of false alarms"
        )
    trials = [trial(model, scenes, post) for post in grid()]
    allowed = [t for t in trials if t.onset_delay_s <= limit_s and t.false_share <= most_false]
    if not allowed:
        least = min(trials, key=lambda t: (t.false_share, t.onset_delay_s))
        sys.exit(f"no thresholds are within both limits; the fewest false alarms: {least}")
    return sorted(allowed, key=lambda t: -t.f1)


@torch.inference_mode()
def scene(model: Model, x: Tensor, segments: Segments) -> Scene:
    """The model's output for a recording `[N]`, and the labels."""
    output = model(x[None])
    probabilities = output.scores[0, : output.lengths[0]].softmax(1)[:, 1].tolist()
    starts = [a for a, _ in segments]
    ends = [0.0, *(b for _, b in segments)]
    onsets = [a for a, b in zip(starts, ends, strict=False) if a - b >= PAUSE_S]
    return Scene(probabilities, inside(segments, len(probabilities), model.frame_s), onsets)


def trial(model: Model, scenes: list[Scene], post: vad.PostProcessing) -> Trial:
    """The frame F1 over all scenes, and the median of their onset delays."""
    # a segment is detected `shortest` frames after its start; each frame, `latency_s` after its end
    wait_s = post.rule(model.frame_s).shortest * model.frame_s + model.latency_s
    decisions, delays, starts = [], [], 0
    for each in scenes:
        segments = vad.segments(each.probabilities, model.frame_s, post)
        decisions.append(inside(segments, len(each.labels), model.frame_s))
        starts += len(segments)
        delays += metrics.delays_s(each.onsets_s, [start + wait_s for start, _ in segments])
    labels, found = torch.cat([each.labels for each in scenes]), torch.cat(decisions)
    silent = torch.cat([each.labels.any().logical_not().expand_as(each.labels) for each in scenes])
    false_share = found[silent].double().mean().item()
    return Trial(post, metrics.f1(labels, found), median(delays), false_share, starts)


def inside(segments: Segments | list[tuple[float, float]], frames: int, frame_s: float) -> Tensor:
    """True for frames that begin in a segment, `[frames]` bool."""
    at_s = torch.arange(frames).double() * frame_s
    bounds = torch.tensor(segments, dtype=torch.float64).reshape(-1, 2)
    # half a sample, since times computed from frames have rounding errors
    return ((bounds[:, :1] - 3e-5 <= at_s) & (at_s < bounds[:, 1:] - 3e-5)).any(0)


def grid() -> Iterator[vad.PostProcessing]:
    """The choices: thresholds, and how short speech and silence may be."""
    for onset, ratio, speech_ms, silence_ms in product(
        (0.5, 0.6, 0.7, 0.8, 0.9), (0.3, 0.5, 0.7), (20, 60, 100), (100, 200)
    ):
        yield vad.PostProcessing(
            onset=onset,
            offset=round(onset * ratio, 2),
            min_speech_ms=speech_ms,
            min_silence_ms=silence_ms,
        )


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(f"{__doc__}\ngive MODEL MANIFEST LONGEST_DELAY_S MOST_FALSE [LOWER_DB]")
    folder, manifest, limit_s, most_false, *lower_db = sys.argv[1:]
    model = sk.load(folder)
    for db in lower_db:
        model = lowered(model, float(db))
    trials = search(model, Path(manifest), float(limit_s), float(most_false))
    for each in trials[:5]:
        delay_ms = 1000 * each.onset_delay_s
        figures = f"onset {delay_ms:.0f} ms  false {each.false_share:.4f}  {each.starts} starts"
        print(f"F1 {each.f1:.4f}  {figures}  {each.post}")
    # half the size; the scores are equal to three digits
    save(model.with_(postprocess=trials[0].post).half(), Path(folder))
