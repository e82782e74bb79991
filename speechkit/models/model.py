"""A model from audio to scores: front end, stem, encoder and head."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from speechkit.errors import AudioError, ConfigError
from speechkit.models.net import Net
from speechkit.nn import Chunk, ClipHead, Serial, StreamLayer
from speechkit.ops.separable_conv import Precision
from speechkit.plans.checks import check_length, finite
from speechkit.rules.changed import changed_rules
from speechkit.rules.endpointing import Endpointing
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing
from speechkit.text.confidence import Confidence

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """The arguments of `prepare`: the precision of products and the requested implementation."""

    dtype: Precision
    impl: str


def refuse_prepared(model: "Model", what: str) -> None:
    """Raises ConfigError for a prepared model, where the original is needed."""
    if model.prepared is not None:
        raise ConfigError(
            f"this model is prepared already, in {model.prepared.dtype}; {what} the one it was "
            "made of"
        )


class Output(NamedTuple):
    """A model's scores: CTC log-probabilities `[B, T', V + 1]` (blank last), frame logits
    `[B, T', n]` or clip logits `[B, n]`, and each row's number of valid frames `[B]`."""

    scores: Tensor
    lengths: Tensor


class Model(nn.Module):
    """A built net; its weights are named `frontend.`, `stem.`, `encoder.` and `head.`."""

    def __init__(
        self,
        config: Net,
        frontend: StreamLayer,
        stem: StreamLayer,
        encoder: StreamLayer,
        head: StreamLayer,
    ) -> None:
        super().__init__()
        self.config = config
        self.frontend = frontend
        self.stem = stem
        self.encoder = encoder
        self.head = head
        # the labels of the scores; a CTC head adds the blank after them
        self.labels = config.labels
        self.sample_rate = config.sample_rate
        self.prepared: Prepared | None = None

    def with_(
        self,
        *,
        postprocess: PostProcessing | dict[str, Any] | None = None,
        spotting: Spotting | dict[str, Any] | None = None,
        endpointing: Endpointing | dict[str, Any] | None = None,
        **unknown: Any,
    ) -> "Model":
        """A model with the same weights and other rules; this one does not change.

        A dict changes the fields that it names. A lower onset also lowers the offset in proportion,
        unless that is given too. Raises ConfigError for a rule that this family does not have.
        """
        given = {"postprocess": postprocess, "spotting": spotting, "endpointing": endpointing}
        rules = changed_rules(self.config, **given, **unknown)
        model = copy.copy(self)
        model.config = replace(self.config, **rules)
        return model

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> Output:
        """Scores of float32 audio `[B, N]` in [-1, 1] whose rows have `lengths [B]` samples."""
        return self.score(self.features(audio, lengths))

    def features(self, audio: Tensor, lengths: Tensor | None = None) -> Chunk:
        """The front end's features, `[B, F, T]`."""
        if audio.ndim != 2 or not audio.is_floating_point():
            raise AudioError(
                f"audio is {audio.dtype} {list(audio.shape)}; give float32 [batch, samples]"
            )
        c: Chunk = self.frontend(Chunk.of(audio.unsqueeze(1), lengths))
        return c

    def score(self, features: Chunk) -> Output:
        """Scores of features from `features()`, which may be augmented."""
        c = self.head(self.encoder(self.stem(features)))
        if self.per_clip:
            return Output(c.x.squeeze(2), c.lengths)
        return Output(c.x.transpose(1, 2), c.lengths)

    def rule(self, kind: type[T]) -> T:
        """The config's rule of a kind such as `PostProcessing`, or the kind's defaults."""
        return self.config.rule(kind)

    @property
    def normalization(self) -> str:
        """The text normalisation (`speechkit.text`); "none" if the config has none."""
        return getattr(self.config, "normalization", "none")

    @property
    def confidence(self) -> Confidence:
        """The scale and bias of a word's score; (1, 0) if the config has none."""
        return getattr(self.config, "confidence", (1.0, 0.0))

    @property
    def per_clip(self) -> bool:
        """True if the head returns one score vector per utterance."""
        return isinstance(self.head, ClipHead)

    @property
    def frame_s(self) -> float:
        """The time from one frame of scores to the next, in seconds."""
        layer = Serial(self.frontend, self.stem, self.encoder)
        return layer.stride / layer.rate / self.sample_rate

    def stream_layer(self, window_s: float | None = None) -> Serial:
        """The whole net as one StreamLayer over audio `[B, 1, N]`, sharing the weights.

        A clip classifier returns scores at every frame, for the utterance so far or for its last
        `window_s` seconds.
        """
        body = {"frontend": self.frontend, "stem": self.stem, "encoder": self.encoder}
        head: StreamLayer = self.head
        if isinstance(head, ClipHead):
            frames = window_s and max(1, round(window_s / self.frame_s))
            head = head.sliding(frames) if frames else head.running()
        return Serial(**body, head=head)

    def sliding(
        self, audio: Tensor, window_s: float | None, lengths: Tensor | None = None
    ) -> Output:
        """The scores `[B, T', n]` of a stream over whole audio `[B, N]`; a clip classifier's are
        those of the `window_s` seconds before each frame."""
        c = self.stream_layer(window_s)(Chunk.of(audio.unsqueeze(1), lengths))
        return Output(c.x.transpose(1, 2), c.lengths)

    @property
    def latency_s(self) -> float:
        """The audio that must follow a frame before its score is returned, in seconds."""
        return self.stream_layer().delay * self.frame_s

    def extra_repr(self) -> str:
        return f"{len(self.labels)} labels, {self.sample_rate} Hz"


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Sets the model to evaluation in the block, and restores its mode afterwards."""
    if not model.training:
        # nothing is changed, so that threads can share the model
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


@torch.inference_mode()
def scores_of(model: Model, samples: Tensor) -> Output:
    """The output for one recording `[N]` in evaluation; AudioError if shorter than a frame."""
    check_length(len(samples), model.sample_rate, model.frontend.stride)
    with evaluating(model):
        output: Output = model(samples[None].to(next(model.parameters()).device))
    finite(output.scores)
    return output
