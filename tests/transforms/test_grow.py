"""One more block that changes no score."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.models import Net
from speechkit.nn import Taps
from speechkit.probes import Examples
from speechkit.transforms import transform

Corpus = Callable[..., Path]


@pytest.fixture
def trained(net: Net) -> sk.Model:
    """A net whose norms have statistics, and look ahead."""
    model = sk.build(replace(net, lookahead=1))
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
    return model.eval()


@pytest.mark.parametrize("after", [0, 1])
def test_scores_stay_as_they_are(trained: sk.Model, corpus: Corpus, after: int) -> None:
    examples = Examples(trained, corpus(8))
    made, (record,) = transform(trained, [f"grow:after={after},kernel=9,repeat=3"], examples)
    audio = examples.clips(1)[0][None]
    with torch.no_grad():
        torch.testing.assert_close(made(audio).scores, trained(audio).scores, atol=1e-5, rtol=0)
    rows = made.config.rows()
    assert len(rows) == len(trained.config.rows()) + 1
    assert (rows[after + 2][0].kernel, rows[after + 2][0].repeat) == (9, 3)
    assert rows[after + 2][1] == 0
    assert made.latency_s == trained.latency_s
    grown = sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in trained.parameters())
    assert record.report == {"block": after + 1, "parameters": grown}


def test_the_shortcut_s_norm_has_the_statistics_of_valid_frames(
    nets: dict[str, Any], corpus: Corpus
) -> None:
    model = sk.build(nets["ctc"]).eval()
    examples = Examples(model, corpus(8), batch_size=3)
    made, _ = transform(model, ["grow:after=0"], examples)
    frames = []
    with Taps({"block": model.encoder[0]}) as taps, torch.no_grad():
        for clip in examples.clips(8):
            model(clip[None])
        frames = [call.output.x[0] for call in taps.take()]
    variance, mean = torch.var_mean(torch.cat(frames, 1), dim=1, correction=0)
    norm = made.encoder[1].sum.shortcut.norm
    torch.testing.assert_close(norm.running_mean, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, variance, atol=1e-5, rtol=1e-4)


def test_the_new_block_learns(nets: dict[str, Any], corpus: Corpus) -> None:
    model = sk.build(nets["ctc"]).eval()
    examples = Examples(model, corpus(8))
    made, _ = transform(model, ["grow:after=0"], examples)
    made.train()
    batch = next(iter(examples.batches))
    examples.loss(made(batch.audio, batch.lengths), batch).sum().backward()
    assert made.encoder[1].sum.body[-1].norm.weight.grad.abs().max() > 0


def test_copies_of_a_row_are_written_out(nets: dict[str, Any], corpus: Corpus) -> None:
    config = nets["ctc"]
    blocks = (config.blocks[0], replace(config.blocks[1], copies=3), config.blocks[2])
    model = sk.build(replace(config, blocks=blocks)).eval()
    examples = Examples(model, corpus(4))
    made, _ = transform(model, ["grow:after=1", "grow:after=1"], examples)
    assert len(made.encoder) == 6
    audio = examples.clips(1)[0][None]
    with torch.no_grad():
        torch.testing.assert_close(made(audio).scores, model(audio).scores, atol=1e-5, rtol=0)


def test_in_a_net_of_another_norm_the_new_block_has_a_batch_norm(
    nets: dict[str, Any], corpus: Corpus
) -> None:
    for norm, own in (("none", [("norm", "core/batch")]), ("batch", [])):
        model = sk.build(replace(nets["ctc"], norm=norm)).eval()
        examples = Examples(model, corpus(4))
        made, _ = transform(model, ["grow:after=1"], examples)
        audio = examples.clips(1)[0][None]
        with torch.no_grad():
            torch.testing.assert_close(made(audio).scores, model(audio).scores, atol=1e-5, rtol=0)
        named = made.config.rows()[3][0].components()
        assert [(kind, str(spec)) for kind, spec in named] == own


def test_what_cannot_be_grown_is_one_line(nets: dict[str, Any], corpus: Corpus) -> None:
    config = nets["ctc"]
    model = sk.build(config)
    with pytest.raises(ConfigError, match="grow needs recordings; give --manifest"):
        transform(model, ["grow:after=0"])
    examples = Examples(model, corpus(4))
    with pytest.raises(ConfigError, match="after=2; give one of the 2 blocks"):
        transform(model, ["grow:after=2"], examples)
    silu = sk.build(replace(config, activation="silu"))
    with pytest.raises(ConfigError, match="activation=core/relu, not activation=core/silu"):
        transform(silu, ["grow:after=0"], examples)
    row = replace(config.blocks[1], activation="silu")
    own = sk.build(replace(config, blocks=(config.blocks[0], row, config.blocks[2])))
    with pytest.raises(ConfigError, match="activation=core/relu, not activation=core/silu"):
        transform(own, ["grow:after=0"], examples)
