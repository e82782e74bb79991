"""The functions `sk.transcribe`, `sk.classify` and `sk.detect`, and scores chunk by chunk."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from speechkit import text as texts
from speechkit.arrays import array_of
from speechkit.checkpoint import ModelSource, as_model
from speechkit.data import Channel, RawFormat, Source, read_audio, read_blocks
from speechkit.decode import Decoder, decoder_of
from speechkit.models import Model, evaluating, scores_of
from speechkit.models.net import Name
from speechkit.models.profile import why_not_streamable
from speechkit.nn import Chunk, StreamLayer
from speechkit.nn.states import in_numpy
from speechkit.plans.checks import check_length, finite
from speechkit.predictions import Label, Segment, label_of, segments_of, transcript_of
from speechkit.rules.probability import softmax
from speechkit.rules.vad import overlap_smooth
from speechkit.streaming.engines.native.layer import native_layer
from speechkit.streaming.gate import DETECTOR, Detector, blanked, middles_s
from speechkit.streaming.listeners import SEGMENT_S
from speechkit.streaming.opening import speech_of
from speechkit.streaming.speech import DetectedSpeech
from speechkit.streaming.waiting import blocks_to_end
from speechkit.tasks import require
from speechkit.text.transcript import Transcript

LONG_S = 60.0
"""Longer recordings are read and computed in pieces if the model streams."""
STEP_S = 1.0
"""The duration of a piece: longer ones do not fit the cache, shorter ones need more calls."""


def transcribe(
    model: ModelSource,
    audio: Source,
    sample_rate: int | None = None,
    decoder: Decoder | Name = "greedy",
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
    vad: Detector = DETECTOR,
) -> Transcript:
    """The text of a path, bytes, array or tensor; arrays need their `sample_rate` in hertz.

    `decoder` names a component, or is a decoder from `reader_of` for many recordings. Text is
    returned only where `vad` detects speech; None disables it. Long recordings are computed in
    pieces if the model streams.
    """
    model = as_model(model)
    reader = reader_of(model, decoder)
    speech = speech_of(model, model.sample_rate, vad)
    log_probs, duration_s = _log_probs(model, audio, sample_rate, channel, raw, speech)
    state, _ = reader.step(reader.init(), log_probs)
    return transcript_of(model, log_probs, reader.ids(state), duration_s)


def reader_of(model: Model, decoder: Decoder | Name = "greedy") -> Decoder:
    """The decoder of a recogniser: from a component's name, or a decoder that is checked."""
    require(model, "transcribe")
    return decoder_of(decoder, model.labels, model.normalization)


def align_text(
    model: ModelSource,
    audio: Source,
    text: str,
    sample_rate: int | None = None,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> Transcript:
    """The times of each word of a known `text` in a path, bytes, array or tensor.

    Raises ManifestError for text that the model's labels cannot spell, and SpeechkitError where it
    is too long for the sound.
    """
    model = as_model(model)
    require(model, "transcribe")
    normalized = texts.normalize(text, model.normalization, model.labels)
    ids = texts.encode(normalized, model.labels).tolist()
    log_probs, duration_s = _log_probs(model, audio, sample_rate, channel, raw)
    return transcript_of(model, log_probs, ids, duration_s)


def classify(
    model: ModelSource,
    audio: Source,
    sample_rate: int | None = None,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> Label:
    """The label of a path, bytes, array or tensor; arrays need their `sample_rate` in hertz."""
    model = as_model(model)
    require(model, "classify")
    samples = read_audio(audio, sample_rate, model.sample_rate, channel=channel, raw=raw)
    return label_of(model, scores_of(model, samples).scores[0])


def detect(
    model: ModelSource,
    audio: Source,
    sample_rate: int | None = None,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> list[Segment]:
    """The segments of speech in a path, bytes, array or tensor, by the model's `postprocess`."""
    model = as_model(model)
    return segments_of(
        model, *speech_probabilities(model, audio, sample_rate, channel=channel, raw=raw)
    )


def speech_probabilities(
    model: ModelSource,
    audio: Source,
    sample_rate: int | None = None,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> tuple[NDArray[np.float64], float, float]:
    """The probability of speech of each frame `[T]`, and the durations of a frame and the audio.

    A clip classifier runs on windows that overlap by 7/8.
    """
    model = as_model(model)
    require_detector(model)
    if model.per_clip:
        samples = read_audio(audio, sample_rate, model.sample_rate, channel=channel, raw=raw)
        return *_windows(model, samples), len(samples) / model.sample_rate
    sound = _sound(model, audio, sample_rate, channel, raw)
    # as floats, because small tensors kept between large temporary ones fragment the memory
    speech = [p for part in _parts(model, sound) for p in _speech(part).tolist()]
    return np.array(speech), model.frame_s, sound.samples / model.sample_rate


def require_detector(model: Model) -> None:
    """Raises ConfigError unless the model detects speech, by frames or, with `postprocess` in its
    config, by clips."""
    if not hasattr(model.config, "postprocess"):
        require(model, "detect")


@torch.inference_mode()
def stream_scores(
    model: ModelSource, audio: Tensor | Iterable[Tensor], chunk_s: float = 0.08
) -> Iterator[Tensor]:
    """The scores of audio `[N]` as it arrives in chunks, `[T', n]` for each, valid frames only.

    T' may be 0, at the end too. Audio may also be a sequence of tensors `[N]` of any length.
    Together the scores equal the offline ones frame by frame; the last row of a clip classifier is
    that of the clip.
    """
    model = as_model(model)
    net = model.stream_layer()
    chunk = max(1, round(chunk_s / model.frame_s)) * net.stride
    native = native_layer(model, net, chunk, ("scores", chunk))
    layer: StreamLayer = net if isinstance(native, str) else native
    weight = next(model.parameters())
    state = layer.init_state(1, 1, weight.dtype, weight.device)
    pieces = audio.split(chunk) if isinstance(audio, Tensor) else audio
    for x, real in _chunks(model, pieces, chunk, layer):
        with evaluating(model):
            c = Chunk.of(x[None, None], torch.tensor([real], device=x.device))
            out, state = layer.step(c, state)
        yield finite(out.x[0].T[out.valid[0]])


def _chunks(
    model: Model, pieces: Iterable[Tensor], chunk: int, layer: StreamLayer
) -> Iterator[tuple[Tensor, int]]:
    """One recording in tensors `[chunk]` until the layer's last frame, and the samples of each."""
    rest = next(model.parameters()).new_zeros(0)
    samples = 0
    for piece in pieces:
        samples += len(piece)
        rest = torch.cat([rest, piece.to(rest)])
        while len(rest) >= chunk:
            yield rest[:chunk], chunk
            rest = rest[chunk:]
    check_length(samples, model.sample_rate, model.frontend.stride)
    for _ in range(blocks_to_end(layer, len(rest), chunk)):
        yield F.pad(rest, (0, chunk - len(rest))), len(rest)
        rest = rest[:0]


def _parts(model: Model, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """The scores `[T, n]` of audio in blocks, piece by piece if it is long and the model streams.

    The scores are the same, and hours of audio fit into memory.
    """
    begun = list(islice(blocks, 2))
    if len(begun) > 1 and why_not_streamable(model) is None:
        yield from stream_scores(model, chain(begun, blocks), STEP_S)
    else:
        yield scores_of(model, torch.cat([*begun, *blocks])).scores[0]


def _log_probs(
    model: Model,
    audio: Source,
    sample_rate: int | None,
    channel: Channel,
    raw: RawFormat | None,
    speech: DetectedSpeech | None = None,
) -> tuple[NDArray[np.float32], float]:
    """CTC log-probabilities `[T, V + 1]` of a whole recording, blank where there is no `speech`,
    and its duration in seconds."""
    sound = _sound(model, audio, sample_rate, channel, raw)
    blocks = speech.listening(sound) if speech else sound
    log_probs = torch.cat([part.float().cpu() for part in _parts(model, blocks)]).numpy()
    if speech:
        at_s = middles_s(np.arange(len(log_probs)), model.frame_s)
        log_probs = blanked(log_probs, speech.at(0, at_s))
    return log_probs, sound.samples / model.sample_rate


def _sound(
    model: Model,
    audio: Source,
    sample_rate: int | None,
    channel: Channel,
    raw: RawFormat | None,
) -> "Counted":
    rate = model.sample_rate
    return Counted(read_blocks(audio, sample_rate, rate, block_s=LONG_S, channel=channel, raw=raw))


class Counted:
    """Iterates over blocks of audio and counts their samples."""

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks, self.samples = iter(blocks), 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        block = next(self._blocks)
        self.samples += len(block)
        return block


def _speech(scores: Tensor) -> NDArray[np.float64]:
    """The probability of speech from logits, `[T, n]` → `[T]`."""
    return softmax(array_of(in_numpy(scores)))[:, 1]


@torch.inference_mode()
def _windows(model: Model, samples: Tensor) -> tuple[NDArray[np.float64], float]:
    """The smoothed probabilities of a clip classifier in steps of an eighth of its window."""
    check_length(len(samples), model.sample_rate, model.frontend.stride)
    step = round(SEGMENT_S / 8 * model.sample_rate)
    around = F.pad(samples.to(next(model.parameters()).device), (4 * step, 4 * step))
    windows = around.unfold(0, 8 * step, step)
    with evaluating(model):
        logits = [finite(model(part.contiguous()).scores) for part in windows.split(64)]
    smooth = overlap_smooth(_speech(torch.cat(logits)), window_frames=8, hop_frames=1)
    # half a window of silence was added before and after
    return smooth[4:-4], step / model.sample_rate
