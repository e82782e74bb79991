"""The matrices of mixers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from speechkit_probes.implicit_attention import _losses, _mixers, matrix_of, rollout

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import Chunk, DepthwiseConv
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


@pytest.mark.parametrize("shape", [(5, 1, 1, 0), (4, 2, 1, "same"), (3, 1, 2, 1)])
def test_the_matrix_of_a_convolution_times_its_input_is_its_output(
    shape: tuple[int, int, int, int],
) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv(1, *shape)
    with torch.no_grad():
        layer.weight.abs_()
    c = Chunk.of(torch.randn(1, 1, 23))
    matrix = matrix_of(layer, c)
    torch.testing.assert_close(matrix @ c.x[0, 0], layer(c).x[0, 0], atol=1e-5, rtol=0)


def test_a_causal_net_weighs_no_later_frame(nets: dict[str, Net]) -> None:
    model = sk.build(replace(nets["clip"], lookahead=0), 1).eval()
    clip = Chunk.of(torch.randn(1, 16, 20))
    with torch.no_grad():
        matrix = rollout(model, _mixers(model), clip)
    assert matrix.shape == (10, 20)
    after = torch.arange(20) > 2 * torch.arange(10)[:, None]
    assert torch.all(matrix[after] == 0)
    torch.testing.assert_close(matrix.sum(1), torch.ones(10))


def test_utterances_are_measured_without_padding(model: sk.Model, corpus: Corpus) -> None:
    manifest = corpus(4)
    one, three = (
        probe(model, ["implicit_attention"], Examples(model, manifest, batch_size=n))
        for n in (1, 3)
    )
    for name, value in one["implicit_attention"].items():
        other = three["implicit_attention"][name]
        torch.testing.assert_close(value, other, atol=1e-4, rtol=1e-4)
    assert one["implicit_attention"]["weights"].ndim == 2


def test_a_net_without_mixers_is_refused(nets: dict[str, Net], corpus: Corpus) -> None:
    rows = (sk.Block(channels=8, kernel=3, separable=False),)
    model = sk.build(replace(nets["clip"], size="custom", blocks=rows)).eval()
    with pytest.raises(ComponentError, match="give a model with such a mixer"):
        probe(model, ["implicit_attention"], Examples(model, corpus(2)))


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_is_between_0_and_1(share: int, model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give one between 0 and 1"):
        probe(model, [f"implicit_attention:share={share}"], Examples(model, corpus(2)))


def test_a_stride_outside_of_mixers_is_one_line(nets: dict[str, Net], corpus: Corpus) -> None:
    first, *others = nets["clip"].blocks
    rows = (replace(first, separable=False), *others)
    model = sk.build(replace(nets["clip"], blocks=rows)).eval()
    with pytest.raises(ComponentError, match="changes the number of frames; give a model"):
        probe(model, ["implicit_attention"], Examples(model, corpus(2)))


def test_half_of_each_matrix_is_the_shortcut(nets: dict[str, Net]) -> None:
    model = sk.build(nets["clip"], 1).eval()
    clip = Chunk.of(torch.randn(1, 16, 20))
    mixers = _mixers(model)
    stem = dict(list(mixers.items())[:1])
    with torch.no_grad():
        matrix = rollout(model, stem, clip)
        size = matrix_of(next(iter(stem.values())), clip)
    size = size / size.sum(1, keepdim=True)
    size[torch.arange(10), 2 * torch.arange(10)] += 1
    torch.testing.assert_close(matrix, size / 2)


def test_the_loss_is_that_of_the_heaviest_frames(nets: dict[str, Net]) -> None:
    model = sk.build(nets["clip"], 1).eval()
    x = torch.randn(1, 16, 20, generator=torch.Generator().manual_seed(0))
    weights, drawn = torch.zeros(20), torch.zeros(20)
    weights[3] = drawn[7] = 1
    with torch.no_grad():
        losses = _losses(model, Chunk.of(x), weights, drawn, 0.05)
        scores = model.score(Chunk.of(x)).scores[0]
        for loss, frame in zip(losses, (3, 7), strict=True):
            other = x.clone()
            other[:, :, frame] = x.mean(2)
            change = scores - model.score(Chunk.of(other)).scores[0]
            torch.testing.assert_close(loss, change[scores.argmax()])
