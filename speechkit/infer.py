"""The functions `sk.transcribe`, `sk.classify` and `sk.detect`, and scores chunk by chunk."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from speechkit import text as texts
from speechkit.component import Spec
from speechkit.data import Channel, RawFormat, Source, read_sample_blocks, read_samples
from speechkit.decode import Decoder, decoder_of
from speechkit.plans.about import About
from speechkit.plans.checks import check_length
from speechkit.plans.plan import Plan
from speechkit.plans.scorer import PlanScorer
from speechkit.plans.source import ModelSource, about_of, resolve, with_torch
from speechkit.predictions import Label, Segment, label_of, segments_of, transcript_of
from speechkit.rules.endpointing import Endpointing, segments
from speechkit.rules.probability import softmax
from speechkit.rules.spotting import Spotting, clip_logits
from speechkit.rules.vad import overlap_smooth
from speechkit.streaming.gate import DETECTOR, NEVER, Detector, blanked, middles_s
from speechkit.text.align import mean_score, words_of
from speechkit.text.transcript import Transcript

if TYPE_CHECKING:
    from torch import Tensor

    from speechkit.models import Model
    from speechkit.streaming.speech import DetectedSpeech

LONG_S = 60.0
"""Longer recordings are read and computed in pieces if the model streams."""
Floats = NDArray[np.float32]


def transcribe(
    model: ModelSource,
    audio: Source,
    sample_rate: int | None = None,
    decoder: Decoder | Spec | str = "greedy",
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
    # sessions take a while to import, and only this function needs them
    from speechkit.streaming.opening import speech_of

    net = resolve(model)
    reader, scorer = reader_of(net, decoder), scorer_of(net)
    about = scorer.about
    speech = speech_of(about, about.sample_rate, vad)
    log_probs, duration_s = _log_probs(scorer, audio, sample_rate, channel, raw, speech)
    log_probs = _as_in_a_stream(about, log_probs, reader)
    state, _ = reader.step(reader.init(), log_probs)
    return transcript_of(about, log_probs, reader.ids(state), duration_s)


def reader_of(model: ModelSource, decoder: Decoder | Spec | str = "greedy") -> Decoder:
    """The decoder of a recogniser: from a component's name, or a decoder that is checked."""
    about = about_of(resolve(model))
    about.require("transcribe")
    return decoder_of(decoder, about.labels, about.normalization)


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
    scorer = scorer_of(resolve(model))
    about = scorer.about
    about.require("transcribe")
    normalized = texts.normalize(text, about.normalization, about.labels)
    ids = texts.encode(normalized, about.labels).tolist()
    log_probs, duration_s = _log_probs(scorer, audio, sample_rate, channel, raw)
    return transcript_of(about, log_probs, ids, duration_s)


def classify(
    model: ModelSource,
    audio: Source,
    sample_rate: int | None = None,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> Label:
    """The label of a path, bytes, array or tensor; arrays need their `sample_rate` in hertz.

    Windows in which a label in `clip_skips` of the model's `spotting` is probable do not count.
    """
    scorer = scorer_of(resolve(model))
    about = scorer.about
    about.require("classify")
    samples = read_samples(audio, sample_rate, about.sample_rate, channel=channel, raw=raw)
    rule = about.rule(Spotting)
    if rule.clip_skips:
        logits = clip_logits(rule, about.labels, scorer.sliding(samples), about.frame_s)
    else:
        logits = scorer.clips(samples[None])[0]
    return label_of(about, logits)


def detect(
    model: ModelSource,
    audio: Source,
    sample_rate: int | None = None,
    *,
    channel: Channel = "mix",
    raw: RawFormat | None = None,
) -> list[Segment]:
    """The segments of speech in a path, bytes, array or tensor, by the model's `postprocess`."""
    net = resolve(model)
    scored = speech_probabilities(net, audio, sample_rate, channel=channel, raw=raw)
    return segments_of(about_of(net), *scored)


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
    scorer = scorer_of(resolve(model))
    about = scorer.about
    require_detector(about)
    if about.per_clip:
        samples = read_samples(audio, sample_rate, about.sample_rate, channel=channel, raw=raw)
        return *_windows(scorer, samples), len(samples) / about.sample_rate
    sound = _sound(about, audio, sample_rate, channel, raw)
    parts = [softmax(scores)[:, 1] for scores in scorer.parts(sound)]
    return np.concatenate(parts), about.frame_s, sound.samples / about.sample_rate


def require_detector(about: About) -> None:
    """Raises ConfigError unless the model detects speech, by frames or, with `postprocess` in its
    config, by clips."""
    if not about.detects:
        about.require("detect")


def stream_scores(
    model: ModelSource, audio: "Tensor | Iterable[Tensor]", chunk_s: float = 0.08
) -> "Iterator[Tensor]":
    """The scores of audio `[N]` as it arrives in chunks, `[T', n]` for each, valid frames only.

    T' may be 0, at the end too. Audio may also be a sequence of tensors `[N]` of any length.
    Together the scores equal the offline ones frame by frame; the last row of a clip classifier is
    that of the clip. It computes in torch.
    """
    made = with_torch("speechkit.checkpoint").as_model(model)
    parts: Iterator[Tensor] = with_torch("speechkit.scoring").stream_scores(made, audio, chunk_s)
    return parts


class Scorer(Protocol):
    """Computes the scores of recordings with the model that `about` describes."""

    about: About

    def parts(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        """The scores `[T, n]` of one recording in blocks `[N]`, piece by piece; T may be 0."""
        ...

    def clips(self, windows: Floats) -> Floats:
        """The scores `[B, n]` of clips `[B, N]`."""
        ...

    def sliding(self, samples: Floats) -> Floats:
        """The scores `[T, n]` of the window before each frame of a clip `[N]`."""
        ...


def scorer_of(net: "Plan | Model") -> Scorer:
    """Computes scores with a plan, or with a Model in torch."""
    if isinstance(net, Plan):
        return PlanScorer(net)
    scorer: Scorer = with_torch("speechkit.scoring").ModelScorer(net)
    return scorer


def _log_probs(
    scorer: Scorer,
    audio: Source,
    sample_rate: int | None,
    channel: Channel,
    raw: RawFormat | None,
    speech: "DetectedSpeech | None" = None,
) -> tuple[Floats, float]:
    """CTC log-probabilities `[T, V + 1]` of a whole recording, blank where there is no `speech`,
    and its duration in seconds."""
    about = scorer.about
    sound = _sound(about, audio, sample_rate, channel, raw)
    blocks = speech.listening(sound) if speech else sound
    log_probs = np.concatenate([*scorer.parts(blocks)])
    if speech:
        at_s = middles_s(np.arange(len(log_probs)), about.frame_s)
        log_probs = blanked(log_probs, speech.at(0, at_s))
    return log_probs, sound.samples / about.sample_rate


def _as_in_a_stream(about: About, log_probs: Floats, reader: Decoder) -> Floats:
    """The log-probabilities after the model's `endpointing`: blank in segments whose text has too
    low a score, and a space in a pause that ends a segment if the model writes none there."""
    ends, blank = about.rule(Endpointing), len(about.labels)
    space = about.labels.index(" ") if " " in about.labels else blank
    best, changed, kept = log_probs.argmax(1), log_probs.copy(), []
    silent = (best == blank) | (best == space)
    for start, stop in segments(ends.rule(about.frame_s), silent.tolist()):
        part = log_probs[start:stop]
        if ends.least_score:
            ids = reader.ids(reader.step(reader.init(), part)[0])
            words = words_of(part, ids, about.labels, about.frame_s, confidence=about.confidence)
            if not words or mean_score(words) < ends.least_score:
                changed[start:stop] = blanked(part, np.zeros(len(part), np.bool_))
                best[start:stop] = blank
                continue
        kept.append(stop)
    spoken = np.flatnonzero((best != blank) & (best != space))
    for stop in kept:
        after = int(np.searchsorted(spoken, stop))
        pause = best[spoken[after - 1] + 1 : spoken[after]] if after < len(spoken) else best[:0]
        if silent[stop - 1] and len(pause) and space not in pause:
            changed[stop - 1] = NEVER
            changed[stop - 1, space] = 0
    return changed


def _sound(
    about: About,
    audio: Source,
    sample_rate: int | None,
    channel: Channel,
    raw: RawFormat | None,
) -> "Counted":
    rate = about.sample_rate
    blocks = read_sample_blocks(audio, sample_rate, rate, block_s=LONG_S, channel=channel, raw=raw)
    return Counted(blocks)


class Counted:
    """Iterates over blocks of audio and counts their samples."""

    def __init__(self, blocks: Iterable[Floats]) -> None:
        self._blocks, self.samples = iter(blocks), 0

    def __iter__(self) -> Iterator[Floats]:
        return self

    def __next__(self) -> Floats:
        block = next(self._blocks)
        self.samples += len(block)
        return block


def _windows(scorer: Scorer, samples: Floats) -> tuple[NDArray[np.float64], float]:
    """The smoothed probabilities of a clip classifier in steps of an eighth of its window."""
    from speechkit.streaming.listeners import SEGMENT_S

    about = scorer.about
    check_length(len(samples), about.sample_rate, about.shortest)
    step = round(SEGMENT_S / 8 * about.sample_rate)
    around = np.pad(samples, 4 * step)
    windows = np.lib.stride_tricks.sliding_window_view(around, 8 * step)[::step]
    speech = softmax(scorer.clips(windows))[:, 1]
    smooth = overlap_smooth(speech, window_frames=8, hop_frames=1)
    # half a window of silence was added before and after
    return smooth[4:-4], step / about.sample_rate
