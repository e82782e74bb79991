"""The probe of dead units counts planted ones, over valid frames."""

from collections.abc import Callable
from pathlib import Path

import torch
from speechkit_compression.dead_neurons import dead_neurons

import speechkit as sk
from speechkit.models import Net
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]
LAYER = "encoder.0.after.activation"


def plant(model: sk.Model, dead: int) -> None:
    """`dead` of the 8 units after the first residual sum are 0 for every input."""
    for part in ("body.2", "shortcut"):
        weight, bias = (
            model.encoder.get_parameter(f"0.sum.{part}.norm.{name}") for name in ("weight", "bias")
        )
        with torch.no_grad():
            weight[:dead] = 0
            bias[:dead] = -1


def test_planted_dead_units_are_found(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus())
    plant(model, 3)
    found = probe(model, ["dead_neurons"], examples)["dead_neurons"]
    assert float(found[f"{LAYER}/static"]) >= 3 / 8
    assert float(found[f"{LAYER}/dynamic"]) >= 3 / 8
    plant(model, 8)
    found = probe(model, ["dead_neurons"], examples)["dead_neurons"]
    assert float(found[f"{LAYER}/static"]) == float(found[f"{LAYER}/dynamic"]) == 1


def test_the_shares_are_those_of_the_outputs(model: sk.Model, corpus: Corpus) -> None:
    plant(model, 2)
    examples = Examples(model, corpus(), batch_size=1)
    found = dead_neurons()(model, examples)
    outputs: dict[str, list[torch.Tensor]] = {}
    for name, layer in model.named_modules():
        if name.endswith(".activation"):
            rows = outputs.setdefault(name, [])
            layer.register_forward_hook(lambda _, args, y, rows=rows: rows.append(y.x[0]))
    for _, features in examples:
        model.score(features)
    zeros = {name: torch.cat(rows, 1) == 0 for name, rows in outputs.items()}
    assert len(zeros) > 3
    for name, zero in zeros.items():
        torch.testing.assert_close(found[f"{name}/dynamic"], zero.double().mean())
        torch.testing.assert_close(found[f"{name}/static"], zero.all(1).double().mean())
    units = torch.cat([zero.double().mean(1) for zero in zeros.values()])
    torch.testing.assert_close(found["dynamic"], units.mean())
    torch.testing.assert_close(found["static"], (units == 1).double().mean())
    assert 0 < float(found["static"]) < float(found["dynamic"]) < 1


def test_padding_is_not_counted(net: Net, corpus: Corpus) -> None:
    model = sk.build(net, 1).eval()
    one, other = (dead_neurons()(model, Examples(model, corpus(), batch_size=n)) for n in (1, 6))
    assert one.keys() == other.keys()
    for name, share in one.items():
        torch.testing.assert_close(share, other[name], rtol=0, atol=1e-4)


def test_an_activation_without_zeros_has_no_dead_units(corpus: Corpus) -> None:
    net = sk.MatchboxNet(
        labels=("a", "b"), blocks=(sk.Block(channels=8, kernel=3),) * 2, activation="gelu"
    )
    model = sk.build(net).eval()
    found = dead_neurons()(model, Examples(model, corpus(2)))
    assert max(map(float, found.values())) == 0
