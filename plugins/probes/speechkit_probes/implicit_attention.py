"""Which frames each frame's output depends on, as the mixers say themselves."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Chunk, DepthwiseConv, StreamLayer, Taps
from speechkit.probes import Examples
from speechkit.probes.flows import blocks_of
from speechkit_probes.attribution import baseline, best, target

MOST_FRAMES = 512
"""The most frames of an utterance: a matrix has a number for each pair of them."""


def implicit_attention(share: float = 0.2) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: whether the frames that the mixers weigh most are those that the score needs.

    A mixer over time is y = α(x) x for a matrix α `[T', T]`: the taps of a depthwise convolution,
    or what a layer's `implicit_attention(c)` returns, such as attention or a linear recurrence.
    Sizes |α| are averaged over channels, their rows sum to 1, half of each is the identity (for the
    shortcut), and the matrices of all layers are multiplied: the weight of frame s is the mean of
    column s. The `share` of frames with the highest weight is then set to the mean of the features:

        highest, random   the mean loss of the score of what was predicted, for these frames and for
                          frames drawn at random
        over_random       the share of utterances where `highest` loses more
        weights           the matrix of the longest utterance, `[T', T]`

    Utterances of more than 512 frames are left out. Zimerman, Ali and Wolf, arXiv:2405.16504, whose
    rollout it follows; the mean over channels and rows is ours. ComponentError if nothing is left,
    or if a layer that is no mixer has a stride; ConfigError for a stack that is not `serial`.
    """
    if not 0 < share < 1:
        raise ComponentError(f"probe implicit_attention: share={share}; give one between 0 and 1")

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        blocks_of(model)
        mixers = _mixers(model)
        chance = torch.Generator().manual_seed(examples.seed)
        lost: list[Tensor] = []
        longest = torch.zeros(0, 0)
        for _, features in examples:
            for row, length in enumerate(features.lengths.tolist()):
                # drawn for every utterance, so that one left out changes nothing
                drawn = torch.rand(length, generator=chance)
                if length > MOST_FRAMES:
                    continue
                clip = Chunk.of(features.x[row : row + 1, :, :length])
                matrix = rollout(model, mixers, clip)
                if length > longest.shape[-1]:
                    longest = matrix.cpu()
                lost.append(_losses(model, clip, matrix.mean(0), drawn, share))
        if not lost:
            raise ComponentError(
                "probe implicit_attention: every utterance has more than 512 frames; give shorter "
                "recordings"
            )
        each = torch.stack(lost)
        return {
            "highest": each[:, 0].mean(),
            "random": each[:, 1].mean(),
            "over_random": (each[:, 0] > each[:, 1]).float().mean(),
            "weights": longest,
        }

    return look


def rollout(model: Model, mixers: dict[str, StreamLayer], clip: Chunk) -> Tensor:
    """The product of the matrices of all mixers on the net's main path, `[T', T]`."""
    with Taps(mixers) as taps:
        model.score(clip)
    whole = torch.eye(clip.x.shape[2], device=clip.x.device)
    for _, layer, (c,), _ in taps.take():
        weights = matrix_of(layer, c)
        if weights.shape[1] != len(whole):
            raise ComponentError(
                "probe implicit_attention: a layer that is no mixer changes the number of frames; "
                "give a model whose strides are in depthwise convolutions"
            )
        size = weights.abs()
        size = size / size.sum(1, keepdim=True).clamp(min=1e-12)
        rows = torch.arange(len(size), device=size.device)
        identity = torch.zeros_like(size)
        identity[rows, rows * getattr(layer, "stride", 1)] = 1
        whole = (size + identity) / 2 @ whole
    return whole


def matrix_of(layer: object, c: Chunk) -> Tensor:
    """|α| `[T', T]` of a mixer on one utterance, the mean over channels or heads."""
    if isinstance(layer, DepthwiseConv):
        frames = c.x.shape[2]
        out = -(-frames // layer.stride)
        found = c.x.new_zeros(out, frames)
        taps = layer.weight[:, 0].abs().mean(0)
        for tap, weight in enumerate(taps):
            at = torch.arange(out, device=c.x.device) * layer.stride - layer.left
            at = at + tap * layer.dilation
            inside = (at >= 0) & (at < frames)
            found[inside.nonzero()[:, 0], at[inside]] += weight
        return found
    weights: Tensor = layer.implicit_attention(c)[0].abs()  # type: ignore[attr-defined]
    return weights if weights.ndim == 2 else weights.mean(0)


def _mixers(model: Model) -> dict[str, StreamLayer]:
    """The mixers of stem and encoder that are not inside another one, in the order of the net."""
    found: dict[str, StreamLayer] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        known = isinstance(module, DepthwiseConv) or hasattr(module, "implicit_attention")
        if known and not inside and name.startswith(("stem", "encoder")):
            found[name] = module
    if not found:
        raise ComponentError(
            "probe implicit_attention: no layer of the model is a depthwise convolution or has "
            "implicit_attention; give a model with such a mixer"
        )
    return found


def _losses(model: Model, clip: Chunk, weights: Tensor, drawn: Tensor, share: float) -> Tensor:
    """What the score loses without the frames of the highest weights, and without random ones."""
    output = model.score(clip)
    labels = best(model, output)
    before = target(output, labels)
    count = max(1, round(share * clip.x.shape[2]))
    found = []
    for order in weights, drawn.to(weights):
        x = clip.x.clone()
        chosen = order.topk(count).indices
        x[:, :, chosen] = baseline(clip).expand(-1, -1, count)
        found.append((before - target(model.score(clip._replace(x=x)), labels)).squeeze())
    return torch.stack(found).cpu()
