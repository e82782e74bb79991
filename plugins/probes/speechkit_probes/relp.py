"""How well one backward pass predicts what happens if channels of a net are replaced."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Chunk, Taps
from speechkit.probes import Examples
from speechkit.probes.flows import blocks_of
from speechkit_probes.attribution import Rule, backward, best, identity, target

ROWS = 64
"""How many channels are replaced at a time."""
ROUNDING = 1e-4
"""Correlations that differ by less are equal."""


def relp(pairs: int = 20, snr_db: float = 0.0) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: estimates of the effect of noise through each channel, against the effect itself.

    A pair is an utterance and the same with white noise of `snr_db`. A node is a channel a of the
    output of a block. Its effect is the change of the score of the utterance's predicted label if
    the node takes its values with noise. The estimates need one backward pass:

        Σ_t (a_noise − a)_t · ∂f/∂a_t        `atp`, with the derivative, and
                                             `relp`, with y / z for that of an activation y(z)

    `atp` and `relp` are the mean correlations of estimate and effect over the nodes of a pair, and
    `over_atp` is the share of pairs where that of `relp` is higher. A pair without any effect, such
    as silence, is left out. For ReLU both are equal. Norms
    that are not batch norms, and gated activations, keep their own gradient here; the paper has
    rules for them. Jafari et al., arXiv:2508.21258. ConfigError for a stack that is not `serial`.
    """
    if pairs < 1:
        raise ComponentError(f"probe relp: pairs={pairs}; give at least 1")

    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(examples.seed)
        rows = []
        for audio in examples.clips(pairs):
            noise = torch.randn(len(audio), generator=chance).to(audio)
            level = audio.square().mean().sqrt() * 10 ** (-snr_db / 20)
            rows.append(_correlations(model, audio, audio + level * noise))
        found = torch.stack(rows)
        known = found[found.isfinite().all(1)]
        if not len(known):
            raise ComponentError(
                "probe relp: noise changes no score, as in silence; give other recordings"
            )
        return {
            "atp": known[:, 0].mean(),
            "relp": known[:, 1].mean(),
            "over_atp": (known[:, 1] > known[:, 0] + ROUNDING).float().mean(),
        }

    return look


def _correlations(model: Model, clean: Tensor, noisy: Tensor) -> Tensor:
    """The correlations of both estimates with the effects, `[2]`."""
    blocks = blocks_of(model)
    with torch.no_grad():
        features, others = (model.features(audio[None]) for audio in (clean, noisy))
        labels = best(model, model.score(features))
        replaced = _outputs(model, blocks, others)
        effects = torch.cat(
            [_effects(model, features, labels, blocks[name], x) for name, x in replaced.items()]
        )
    estimates = [
        _estimates(model, features, labels, blocks, replaced, rule) for rule in (None, identity)
    ]
    return torch.stack([torch.corrcoef(torch.stack([one, effects]))[0, 1] for one in estimates])


def _outputs(model: Model, blocks: dict[str, Any], features: Chunk) -> dict[str, Tensor]:
    """The output of each block, `[1, C, T]`."""
    with Taps(blocks) as taps:
        model.score(features)
    return {call.name: call.output.x for call in taps.take()}


def _effects(
    model: Model, features: Chunk, labels: Tensor, block: nn.Module, replaced: Tensor
) -> Tensor:
    """The change of the score if a channel of a block takes its values of `replaced`, `[C]`."""
    before = target(model.score(features), labels)
    found = []
    for channels in torch.arange(replaced.shape[1]).split(ROWS):
        handle = block.register_forward_hook(partial(_with_channels, channels, replaced))
        try:
            output = model.score(_repeated(features, len(channels)))
        finally:
            handle.remove()
        found.append(target(output, labels.expand(len(channels), *labels.shape[1:])) - before)
    return torch.cat(found)


def _with_channels(
    channels: Tensor, replaced: Tensor, block: Any, args: Any, output: Chunk
) -> Chunk:
    """Row i with the channel `channels[i]` of `replaced`."""
    x = output.x.clone()
    x[torch.arange(len(channels)), channels] = replaced[0, channels]
    return output._replace(x=x)


def _repeated(features: Chunk, count: int) -> Chunk:
    return Chunk(features.x.expand(count, -1, -1), features.valid.expand(count, -1))


def _estimates(
    model: Model,
    features: Chunk,
    labels: Tensor,
    blocks: dict[str, Any],
    replaced: dict[str, Tensor],
    rule: Rule | None,
) -> Tensor:
    """Σ_t (a_noise − a)_t · gradient_t for all channels of all blocks."""
    with torch.enable_grad(), backward(model, rule), Taps(blocks) as taps:
        x = features.masked.detach().requires_grad_()
        score = target(model.score(Chunk(x, features.valid)), labels).sum()
        outputs = {call.name: call.output.x for call in taps.take()}
        gradients = torch.autograd.grad(score, list(outputs.values()))
    return torch.cat(
        [
            ((replaced[name] - outputs[name].detach()) * gradient).sum((0, 2))
            for name, gradient in zip(outputs, gradients, strict=True)
        ]
    )
