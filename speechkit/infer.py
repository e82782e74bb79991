"""One recording in, an answer out; and the same answer chunk by chunk."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from speechkit.data import Source, read_audio
from speechkit.errors import AudioError
from speechkit.evaluation import evaluating
from speechkit.models import Model, Output
from speechkit.nn import Chunk
from speechkit.tasks import require, task_of


@dataclass(frozen=True)
class Transcript:
    """What was said."""

    text: str


@dataclass(frozen=True)
class Label:
    """The label a clip was given, its probability, and that of every label."""

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, in seconds."""

    start_s: float
    end_s: float


def transcribe(model: Model, audio: Source, sample_rate: int | None = None) -> Transcript:
    """The text of a path, bytes, array or tensor; arrays need their `sample_rate` in hertz."""
    require(model, "ctc")
    output = _scores(model, audio, sample_rate)
    return Transcript(text=task_of(model).answers(output)[0])


def classify(model: Model, audio: Source, sample_rate: int | None = None) -> Label:
    """The label of a path, bytes, array or tensor; arrays need their `sample_rate` in hertz."""
    require(model, "clip")
    return label_of(model, _scores(model, audio, sample_rate).scores[0])


def detect(
    model: Model, audio: Source, sample_rate: int | None = None, threshold: float = 0.5
) -> list[Segment]:
    """The stretches whose frames are speech with a probability of at least `threshold`."""
    require(model, "frame")
    speech = _scores(model, audio, sample_rate).scores[0].softmax(1)[:, 1] >= threshold
    edges = torch.cat([speech.new_zeros(1), speech, speech.new_zeros(1)]).int().diff()
    times_s = [frame * model.frame_s for frame in edges.nonzero()[:, 0].tolist()]
    return [Segment(*pair) for pair in zip(times_s[::2], times_s[1::2], strict=True)]


def label_of(model: Model, logits: Tensor) -> Label:
    """The label that clip logits `[n]` speak for."""
    scores = dict(zip(model.labels, logits.softmax(0).tolist(), strict=True))
    best = max(scores, key=scores.__getitem__)
    return Label(best, scores[best], scores)


@torch.inference_mode()
def stream_scores(model: Model, audio: Tensor, chunk_s: float = 0.08) -> Iterator[Tensor]:
    """The scores of audio `[N]` as it arrives in chunks, `[T', n]` for each, valid frames only.

    Joined they equal the offline scores frame by frame; a clip classifier's last row is the clip's.
    """
    _check_length(model, audio)
    layer = model.stream_layer()
    chunk = max(1, round(chunk_s / model.frame_s)) * layer.stride
    flush = layer.delay * layer.stride // layer.rate
    total = -(-(audio.shape[0] + flush) // layer.stride) * layer.stride
    padded = torch.nn.functional.pad(audio, (0, total - audio.shape[0]))
    c = Chunk.of(padded[None, None], torch.tensor([audio.shape[0]]))
    state = layer.init_state(1, 1, audio.dtype, audio.device)
    for start in range(0, total, chunk):
        part = Chunk(c.x[:, :, start : start + chunk], c.valid[:, start : start + chunk])
        with evaluating(model):
            out, state = layer.step(part, state)
        yield out.x[0].T[out.valid[0]]


@torch.inference_mode()
def _scores(model: Model, audio: Source, sample_rate: int | None) -> Output:
    samples = read_audio(audio, sample_rate, model.sample_rate)
    _check_length(model, samples)
    with evaluating(model):
        output: Output = model(samples[None].to(next(model.parameters()).device))
    return output


def _check_length(model: Model, samples: Tensor) -> None:
    frame = model.frontend.stride
    if len(samples) < frame:
        raise AudioError(
            f"{len(samples)} samples at {model.sample_rate} Hz are less than one frame; "
            f"give at least {frame}"
        )
