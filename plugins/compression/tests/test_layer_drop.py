"""Blocks, or their bodies, are left out by the similarity of their input and output."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.infer import stream_scores
from speechkit.models import Net
from speechkit.plugins import Registry, using
from speechkit.probes import Examples
from speechkit.transforms import transform

Corpus = Callable[..., Path]
AUDIO = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))


def apply(model: sk.Model, corpus: Corpus, name: str, **options: Any) -> tuple[sk.Model, Any]:
    made, (applied,) = transform(model, [name], Examples(model, corpus(), **options))
    return made, applied.report


@pytest.mark.parametrize("target", ["body", "block"])
def test_paper_41_a_planted_empty_block_is_dropped_first(
    model: sk.Model, corpus: Corpus, planted: Callable[[sk.Model, int], None], target: str
) -> None:
    planted(model, 1)
    made, report = apply(model, corpus, f"layer_drop:n=1,target={target}")
    assert report["blocks"] == [1]
    similarity = report["similarity"]
    assert similarity["1"] == pytest.approx(1, abs=1e-6)
    assert max(similarity["0"], similarity["2"]) < 0.99
    with torch.no_grad():
        torch.testing.assert_close(made(AUDIO).scores, model(AUDIO).scores, atol=1e-5, rtol=1e-4)


def test_paper_41_the_similarity_is_that_of_shortcut_and_sum_before_the_activation(
    model: sk.Model, corpus: Corpus
) -> None:
    _, report = apply(model, corpus, "layer_drop:n=0")
    examples = Examples(model, corpus())
    found, total, x_y = 0.0, 0, 0.0
    block: Any = model.encoder[1]
    with torch.no_grad():
        for _, features in examples:
            c = model.encoder[0](model.stem(features))
            skip, body = block.sum.shortcut(c).x, block.sum.body(c).x
            pairs = (skip, skip + body), (c.x, block(c).x)
            before, across = (torch.cosine_similarity(*pair, dim=1)[c.valid] for pair in pairs)
            found, x_y = found + before.sum().item(), x_y + across.sum().item()
            total += len(before)
    assert report["similarity"]["1"] == pytest.approx(found / total, abs=1e-5)
    _, report = apply(model, corpus, "layer_drop:n=0,target=block")
    assert report["similarity"]["1"] == pytest.approx(x_y / total, abs=1e-5)


def test_paper_41_padding_does_not_count(model: sk.Model, corpus: Corpus) -> None:
    one, other = (apply(model, corpus, "layer_drop:n=1", batch_size=n)[1] for n in (1, 6))
    assert one["similarity"] == pytest.approx(other["similarity"], abs=1e-6)


def test_paper_41_just_what_is_dropped_is_missing(model: sk.Model, corpus: Corpus) -> None:
    def count(layer: torch.nn.Module) -> int:
        return sum(x.numel() for x in layer.parameters())

    blocks: list[Any] = list(model.encoder)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    made, report = apply(model, corpus, "layer_drop:n=2")
    bodies = sum(count(blocks[i].sum.body) for i in report["blocks"])
    assert count(model) - count(made) == bodies
    for name, value in made.state_dict().items():
        known = name if name in before else name.replace(".shortcut", ".sum.shortcut")
        assert torch.equal(value, before[known])
    made, report = apply(model, corpus, "layer_drop:n=2,target=block")
    assert count(model) - count(made) == sum(count(blocks[i]) for i in report["blocks"])
    assert len(made.config.rows()) == len(model.config.rows()) - 2


def test_the_ranks_are_one_order_its_reverse_and_draws(model: sk.Model, corpus: Corpus) -> None:
    _, report = apply(model, corpus, "layer_drop:n=0")
    order = sorted(report["similarity"], key=report["similarity"].get, reverse=True)
    for n in (1, 2):
        assert apply(model, corpus, f"layer_drop:n={n}")[1]["blocks"] == sorted(map(int, order[:n]))
        _, last = apply(model, corpus, f"layer_drop:n={n},rank=reverse")
        assert last["blocks"] == sorted(map(int, order[-n:]))
    draws = [
        apply(model, corpus, "layer_drop:n=1,rank=random", seed=seed)[1]["blocks"]
        for seed in (0, 1, 2, 3, 4, 5, 0)
    ]
    assert draws[0] == draws[-1]
    assert {block for (block,) in draws} == {0, 1, 2}


def test_a_dropped_net_drops_on_streams_and_loads(net: Net, corpus: Corpus, tmp_path: Path) -> None:
    model = sk.build(replace(net, frontend="log_mel:n_mels=16,normalize=fixed"), 1).eval()
    examples = Examples(model, corpus())
    made, applied = transform(model, ["layer_drop:n=1", "layer_drop:n=1"], examples)
    one, other = (entry.report["blocks"] for entry in applied)
    assert one != other
    kept = [str(row.block) for row, _ in made.config.rows()[1:4]]
    assert kept.count("skip") == 2
    both, _ = transform(model, ["layer_drop:n=3"], examples)
    thrice, _ = transform(made, ["layer_drop:n=1"], examples.of(made))
    with torch.no_grad():
        assert torch.equal(both(AUDIO).scores, thrice(AUDIO).scores)
    sk.save(made, tmp_path / "made", transforms=applied)
    loaded = sk.load(tmp_path / "made")
    with torch.no_grad():
        scores = loaded(AUDIO).scores
        assert torch.equal(scores, made(AUDIO).scores)
    if not model.per_clip:
        streamed = torch.cat(list(stream_scores(loaded, AUDIO[0], chunk_s=0.05)))
        torch.testing.assert_close(streamed, scores[0], rtol=1e-3, atol=1e-4)


def test_only_blocks_that_keep_their_width_are_removed(net: Net, corpus: Corpus) -> None:
    stem, row, end = net.blocks
    blocks = (stem, replace(row, copies=1), replace(row, copies=1, channels=12), end)
    model = sk.build(replace(net, blocks=blocks), 1).eval()
    assert list(apply(model, corpus, "layer_drop:n=1,target=block")[1]["similarity"]) == ["0"]
    assert list(apply(model, corpus, "layer_drop:n=1")[1]["similarity"]) == ["0", "1"]
    with pytest.raises(
        ConfigError, match=r"n=2, target=block; 1 of the encoder's 3 blocks can be left out; give n"
    ):
        apply(model, corpus, "layer_drop:n=2,target=block")


def test_what_does_not_fit_is_one_line(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="layer_drop needs recordings"):
        transform(model, ["layer_drop:n=1"])
    for name, message in {
        "layer_drop:n=4": "n=4, target=body; 3 of the encoder's 4 blocks can be left without their",
        "layer_drop:n=-1": "give n from 0 to 3",
        "layer_drop:n=1,rank=best": "rank=best; give cosine or random or reverse",
        "layer_drop:n=1,target=norm": "target=norm; give body or block",
    }.items():
        with pytest.raises(ConfigError, match=message):
            apply(model, corpus, name)


def test_of_another_block_the_body_stays(net: Net, corpus: Corpus) -> None:
    def acme(c_in: int, c_out: int, make_body: Any, index: int, depth: int) -> Any:
        return make_body(c_in, c_out)

    plugins = Registry({"SPEECHKIT_PLUGINS": "compression"})
    hook = sk.hookimpl(lambda: [sk.Component(name="part", factory=acme, summary="A part")])
    plugins.add(SimpleNamespace(__name__="acme", speechkit_blocks=hook), "acme", "0.1.0")
    with using(plugins):
        model = sk.build(replace(net, block="part"), 1).eval()
        with pytest.raises(ConfigError, match="net with block=core/plain, not block=acme/part"):
            apply(model, corpus, "layer_drop:n=1")
        _, report = apply(model, corpus, "layer_drop:n=1,target=block")
        assert list(report["similarity"]) == ["0", "1", "2"]
