"""Statistics of batch norms are estimated anew."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.models import Net
from speechkit.nn import BatchNorm
from speechkit.probes import Examples
from speechkit.transforms import transform

Corpus = Callable[..., Path]


def test_they_are_those_of_all_valid_frames(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus(4), batch_size=4)
    made, (applied,) = transform(model, ["norm_statistics"], examples)
    assert applied.report == {"norms": len([x for x in model.modules() if type(x) is BatchNorm])}
    stem: Any = made.stem
    layer = stem.body[0]
    with torch.no_grad():
        ((_, features),) = examples
        c = layer.channel(layer.mixer(features))
    frames = c.x.transpose(1, 2)[c.valid]
    torch.testing.assert_close(layer.norm.running_mean, frames.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer.norm.running_var, frames.var(0), atol=1e-5, rtol=1e-4)
    assert not made.training
    assert layer.norm.momentum == 0.1


def test_they_are_the_mean_over_batches(model: sk.Model, corpus: Corpus) -> None:
    utterances = Examples(model, corpus(4)).utterances

    def statistics(part: Any, size: int) -> torch.Tensor:
        made, _ = transform(model, ["norm_statistics"], Examples(model, part, batch_size=size))
        return made.state_dict()["stem.body.0.norm.running_mean"]

    each = [statistics([utterance], 1) for utterance in utterances]
    torch.testing.assert_close(statistics(utterances, 1), torch.stack(each).mean(0))


def test_no_weight_changes_and_dropout_stays_off(net: Net, corpus: Corpus) -> None:
    model = sk.build(replace(net, dropout=0.5), 1).eval()
    examples = Examples(model, corpus())
    one, other = (transform(model, ["norm_statistics"], examples)[0] for _ in range(2))
    weights = dict(model.named_parameters())
    assert all(torch.equal(x, weights[name]) for name, x in one.named_parameters())
    with_dropout, without = (
        {name: x for name, x in made.state_dict().items() if "running" in name}
        for made in (
            other,
            transform(sk.build(replace(net, dropout=0.0), 1).eval(), ["norm_statistics"], examples)[
                0
            ],
        )
    )
    assert all(torch.equal(x, without[name]) for name, x in with_dropout.items())


def test_what_does_not_fit_is_one_line(net: Net, model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="norm_statistics needs recordings"):
        transform(model, ["norm_statistics"])
    plain = sk.build(replace(net, norm="none"), 1).eval()
    with pytest.raises(ConfigError, match="norm=none and no norm with statistics; give a net with"):
        transform(plain, ["norm_statistics"], Examples(plain, corpus()))
