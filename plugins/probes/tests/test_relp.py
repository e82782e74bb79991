"""One backward pass against the replacement of channels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from speechkit_probes.attribution import best, target
from speechkit_probes.relp import _effects

import speechkit as sk
from speechkit.data import Utterance, read_manifest
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import Chunk
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


def test_both_are_equal_for_relu(model: sk.Model, corpus: Corpus) -> None:
    found = probe(model, ["relp:pairs=3"], Examples(model, corpus(3)))["relp:pairs=3"]
    assert found["relp"] == pytest.approx(found["atp"].item(), abs=2e-3)
    assert found["atp"] > 0.3, "both follow the effects"
    assert found["over_atp"] == 0, "rounding makes none better"


def test_a_linear_net_is_predicted_exactly(nets: dict[str, Net], corpus: Corpus) -> None:
    config = replace(nets["clip"], activation="relu")
    model = sk.build(config, 1).eval()
    # far above 0, all units are on
    for name, bias in model.named_parameters():
        if name.endswith("norm.bias"):
            bias.data.fill_(30)
    found = probe(model, ["relp:pairs=2"], Examples(model, corpus(2)))["relp:pairs=2"]
    assert found["atp"] == pytest.approx(1, abs=1e-3)


def test_other_activations_make_a_difference(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(replace(nets["clip"], activation="silu"), 1).eval()
    found = probe(model, ["relp:pairs=3"], Examples(model, corpus(3)))["relp:pairs=3"]
    assert abs(found["relp"] - found["atp"]) > 1e-4


def test_an_effect_is_that_of_the_replaced_channel(model: sk.Model) -> None:
    generator = torch.Generator().manual_seed(0)
    features = Chunk.of(torch.randn(1, 16, 20, generator=generator))
    with torch.no_grad():
        labels = best(model, model.score(features))
        before = target(model.score(features), labels)
        blocks: Any = model.encoder
        other = torch.randn(1, 8, 10, generator=generator)
        effects = _effects(model, features, labels, blocks[1], other)
        c = blocks[1](blocks[0](model.stem(features)))
        x = c.x.clone()
        x[:, 5] = other[:, 5]
        scores = model.head(blocks[3](blocks[2](c._replace(x=x)))).x
    expected = scores.squeeze(2) if model.per_clip else scores.transpose(1, 2)
    after = target(model.score(features)._replace(scores=expected), labels)
    torch.testing.assert_close(effects[5:6], after - before)


def test_at_least_one_pair_is_needed(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give at least 1"):
        probe(model, ["relp:pairs=0"], Examples(model, corpus(2)))


def test_silence_is_left_out(nets: dict[str, Net], corpus: Corpus, tmp_path: Path) -> None:
    model = sk.build(nets["clip"], 1).eval()
    soundfile.write(tmp_path / "silence.wav", torch.zeros(8000).numpy(), 16000)
    silence = Utterance(audio=tmp_path / "silence.wav", duration_s=0.5)
    sound = read_manifest(corpus(1))
    found = probe(model, ["relp"], Examples(model, [*sound, silence]))["relp"]
    assert found["atp"].isfinite()
    with pytest.raises(ComponentError, match="noise changes no score"):
        probe(model, ["relp"], Examples(model, [silence]))


def test_the_noise_has_the_level_that_is_asked_for(
    nets: dict[str, Net], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sk.build(nets["clip"], 1).eval()
    seen = []

    def keep(model: sk.Model, clean: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        seen.append(10 * (clean.square().mean() / (noisy - clean).square().mean()).log10())
        return torch.zeros(2)

    monkeypatch.setattr("speechkit_probes.relp._correlations", keep)
    probe(model, ["relp:pairs=1,snr_db=6"], Examples(model, corpus(1)))
    assert seen[0] == pytest.approx(6, abs=0.2)
