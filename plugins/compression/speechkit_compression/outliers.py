"""Outlier channels: those whose values are far above the others of a layer's input."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import ComponentError, ConfigError
from speechkit.models import Model
from speechkit.nn import Taps, describes
from speechkit.probes import Examples

INTEGER = "stem.", "encoder."
"""The parts of a model whose 1×1 layers are computed in int8."""
TINY = 1e-30
"""The least power of an output, in place of 0."""


def outlier_channels(
    ratio: float = 6.0, bits: int = 8
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """A probe of every 1×1 layer y = W x of stem and encoder, over valid frames.

        a_j = max |x_j| over all frames, NAME/ratio = max_j a_j / median_j a_j
        NAME/frame_error = ‖W x − Q(W) Q(x)‖ / ‖W x‖
        Q(x) = Δ round(x / Δ), Δ = max |x| / (2^(bits − 1) − 1)

    `NAME/outliers` is the number of channels with a_j > `ratio` · median; `NAME/largest` is a,
    `[C]`. The median is that of the channels that are not always 0. W has one Δ for each row and x
    one for each frame, as with int8 of `prepare` and of plans. In `NAME/layer_error` x has one for
    all frames, as with int8 of ONNX. `frame_correlation` and `layer_correlation` are Spearman's
    rank correlations of the ratios with these errors. The rounding is that of Pierro and Abreu,
    Mamba-PTQ, arXiv:2407.12397; the rule for outliers is ours.
    """
    if not ratio > 1 or not 2 <= bits <= 16:
        raise ComponentError(
            f"probe outlier_channels: ratio={ratio}, bits={bits}; give a ratio above 1 and 2 to 16 "
            "bits"
        )

    def probe(model: Model, examples: Examples) -> dict[str, Tensor]:
        tops = largest(model, examples)
        if not tops:
            raise ConfigError(
                "probe outlier_channels: stem and encoder have no 1×1 layer with a matrix; give a "
                "net with channel=linear"
            )
        ratios = torch.stack([outlier_ratio(a) for a in tops.values()])
        errors = _errors(model, examples, tops, bits)
        found: dict[str, Tensor] = {}
        for (name, a), error in zip(tops.items(), errors, strict=True):
            found[f"{name}/ratio"] = outlier_ratio(a)
            found[f"{name}/outliers"] = (a > ratio * _typical(a)).sum()
            found[f"{name}/largest"] = a
            found[f"{name}/frame_error"], found[f"{name}/layer_error"] = error
        found["frame_correlation"] = rank_correlation(ratios, errors[:, 0])
        found["layer_correlation"] = rank_correlation(ratios, errors[:, 1])
        return found

    return probe


@torch.no_grad()
def largest(model: Model, examples: Examples) -> dict[str, Tensor]:
    """a_j = max |x_j| `[C]` over the valid frames of all examples, for the input x of each 1×1
    layer, by its name."""
    found: dict[str, Tensor] = {}
    for name, _, x in _inputs(model, examples):
        a = x.abs().amax(0)
        found[name] = torch.maximum(a, found.get(name, a))
    return found


def outlier_ratio(a: Tensor) -> Tensor:
    """max_j a_j / median_j a_j of the channels that are not always 0; 1 if there are none."""
    return a.max() / _typical(a) if a.any() else a.new_ones(())


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's correlation of two vectors without equal numbers; 0 for a single number."""
    if len(x) < 2:
        return x.new_zeros(())
    ranks = torch.stack([values.argsort().argsort() for values in (x, y)])
    return torch.corrcoef(ranks.to(x.dtype))[0, 1]


def rounded(x: Tensor, top: Tensor, bits: int) -> Tensor:
    """Δ round(x / Δ), Δ = top / (2^(bits−1) − 1)."""
    step = top / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, (x / step).round() * step, 0.0)


@torch.no_grad()
def _errors(model: Model, examples: Examples, tops: dict[str, Tensor], bits: int) -> Tensor:
    """The relative error of each layer with a step for each frame, and with one for all,
    `[layers, 2]`."""
    squares: dict[str, Tensor] = {}
    for name, weight, x in _inputs(model, examples):
        y = x @ weight.t()
        w = rounded(weight, weight.abs().amax(1, keepdim=True), bits).t()
        steps = x.abs().amax(1, keepdim=True), tops[name].max()
        off = [rounded(x, top, bits) @ w - y for top in steps]
        own = torch.stack([part.double().square().sum() for part in (*off, y)])
        squares[name] = squares.get(name, 0) + own
    found = torch.stack([squares[name] for name in tops])
    return (found[:, :2] / found[:, 2:].clamp(min=TINY)).sqrt().float()


def _inputs(model: Model, examples: Examples) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, weight `[C', C]` and input in valid frames `[N, C]` of each call of each 1×1 layer."""
    layers = _layers(model)
    with Taps(layers) as taps:
        for _, features in examples:
            model.score(features)
            for name, _, (c,), _ in taps.take():
                yield name, layers[name].matrix()[0], c.x.transpose(1, 2)[c.valid]


def _layers(model: Model) -> dict[str, Any]:
    modules: Iterator[tuple[str, Any]] = model.named_modules()
    return {
        name: layer
        for name, layer in modules
        if name.startswith(INTEGER) and describes(layer, "matrix") and layer.matrix() is not None
    }


def _typical(a: Tensor) -> Tensor:
    return a[a > 0].median()
