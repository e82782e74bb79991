"""The scores of whole recordings by a model in torch, at once or piece by piece."""

import speechkit.torch_required

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from speechkit.config import check_range
from speechkit.errors import StreamError
from speechkit.limits import MAX_LATENCY_S
from speechkit.models import Model, evaluating, scores_of
from speechkit.models.profile import why_not_streamable
from speechkit.nn import Chunk, StreamLayer
from speechkit.plans.checks import check_length, finite
from speechkit.plans.scorer import STEP_S
from speechkit.plans.timing import blocks_to_end
from speechkit.streaming.engines.native.layer import native_layer
from speechkit.tasks.plans import about_of

WINDOWS_AT_ONCE = 64
Floats = NDArray[np.float32]


class ModelScorer:
    """Computes the scores of recordings with a model, on its device and in its precision."""

    def __init__(self, model: Model) -> None:
        self.model, self.about = model, about_of(model)

    def parts(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        """The scores `[T, n]` of one recording, which is given in blocks `[N]`.

        A model that streams computes several blocks piece by piece, so that hours of audio fit into
        memory; the scores are the same.
        """
        sound = (torch.as_tensor(block) for block in blocks)
        begun = list(islice(sound, 2))
        if len(begun) > 1 and why_not_streamable(self.model) is None:
            parts = stream_scores(self.model, chain(begun, sound), STEP_S)
        else:
            output = scores_of(self.model, torch.cat([*begun, *sound]))
            # a front end may pad the end with frames that are not valid
            parts = iter([output.scores[0, : output.lengths[0]]])
        return map(_floats, parts)

    @torch.inference_mode()
    def clips(self, windows: Floats) -> Floats:
        """The scores `[B, n]` of clips `[B, N]`."""
        check_length(windows.shape[1], self.about.sample_rate, self.about.shortest)
        device = next(self.model.parameters()).device
        parts = torch.from_numpy(windows.copy()).to(device).split(WINDOWS_AT_ONCE)
        with evaluating(self.model):
            scores = [finite(self.model(part.contiguous()).scores) for part in parts]
        return _floats(torch.cat(scores))

    @torch.inference_mode()
    def sliding(self, samples: Floats) -> Floats:
        """The scores `[T, n]` of the window before each frame of a clip `[N]`."""
        check_length(len(samples), self.about.sample_rate, self.about.shortest)
        weight = next(self.model.parameters())
        audio = torch.from_numpy(samples.copy())[None].to(weight)
        with evaluating(self.model):
            scores, lengths = self.model.sliding(audio, self.about.window_s)
        return _floats(finite(scores[0, : lengths[0]]))


def _floats(scores: Tensor) -> Floats:
    array: Floats = scores.float().numpy(force=True)
    return array


@torch.inference_mode()
def stream_scores(
    model: Model, audio: Tensor | Iterable[Tensor], chunk_s: float = 0.08
) -> Iterator[Tensor]:
    """The scores of audio `[N]` as it arrives in chunks, as `speechkit.infer.stream_scores`."""
    check_range("chunk_s", chunk_s, 0, MAX_LATENCY_S, error=StreamError)
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
