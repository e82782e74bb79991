"""What the last layer of a clip classifier is given: means of the encoder's frames."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ConfigError, ManifestError
from speechkit.models import Model
from speechkit.nn import Pointwise, PooledHead
from speechkit.probes import Examples
from speechkit.rules.spotting import Spotting, counted

SHORTEST_S = 0.1
"""The shortest recording of a label."""


class Embeddings:
    """Embeddings of recordings: what the linear layer of a model with head `clip` is given.

    `weight` and `bias` are those of that layer. Raises ConfigError for a model with another head.
    """

    def __init__(self, model: Model, transform: str) -> None:
        head = model.head
        if type(head) is not PooledHead or type(head.linear) is not Pointwise:
            raise ConfigError(
                f"transform {transform} takes a model with head clip, not {model.config.head}"
            )
        self.model, self.rule = model, model.rule(Spotting)
        weight, bias, _ = head.linear.matrix()
        self.weight = weight.detach()
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        # a pool that does not slide gives one frame for the whole recording
        sliding = head.sliding(max(1, round(self.rule.window_s / model.frame_s)))
        self.pool: Any = sliding.get_submodule("pool")

    def windows(self, audio: Tensor) -> Tensor:
        """The embedding of the window before each frame of a recording `[N]`, `[T, C]`."""
        with torch.no_grad():
            features = self.model.features(audio[None])
            embedded: Tensor = self.pool(self.model.encoder(self.model.stem(features))).x[0].T
        return embedded

    def clip(self, audio: Tensor) -> Tensor:
        """The embedding of a clip `[N]`, `[C]`: its mean over the windows that `classify` uses."""
        windows = self.windows(audio)
        logits = self.logits(windows).numpy(force=True)
        frames = counted(self.rule, self.model.labels, logits, self.model.frame_s)
        return windows[torch.from_numpy(frames).to(windows.device)].mean(0)

    def logits(self, embedded: Tensor) -> Tensor:
        """The logits `[N, labels]` of embeddings `[N, C]`."""
        return F.linear(embedded, self.weight, self.bias)


def labelled(examples: Examples) -> Iterator[tuple[str, Tensor]]:
    """The label and the audio `[N]` of each recording; ManifestError for one without a label or
    shorter than SHORTEST_S."""
    for utterance in examples.utterances:
        if not (utterance.label or "").strip():
            raise ManifestError(
                f"{utterance.place}: no label; name the word, such as 'label': 'go'"
            )
        if utterance.duration_s < SHORTEST_S:
            raise ManifestError(
                f"{utterance.place}: {utterance.duration_s:g} s; give at least {SHORTEST_S:g} s"
            )
    for batch in examples.batches:
        rows = zip(batch.audio, batch.lengths.tolist(), batch.indices, strict=True)
        for audio, length, index in rows:
            yield str(examples.utterances[index].label), audio[:length]
