"""A net that looks less far ahead, fitted to a trained one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.component import Spec
from speechkit.errors import ComponentError, ConfigError
from speechkit.nn import BatchNorm, Chunk, DepthwiseConv, Pointwise
from speechkit.plugins import registry
from speechkit.probes import Examples
from speechkit.transforms import transform
from speechkit.transforms.fit import Fit, fit_filters, fit_linear

Corpus = Callable[..., Path]


@pytest.fixture
def teacher(nets: dict[str, Any]) -> sk.Model:
    """A net that looks two frames ahead everywhere, with norms that have statistics."""
    model = sk.build(nets["ctc"]).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(generator=generator)
        elif name.endswith(("running_var", "norm.weight")):
            value.uniform_(0.5, 2, generator=generator)
    return model


def scores(model: sk.Model, examples: Examples) -> torch.Tensor:
    with torch.no_grad():
        return model(examples.clips(1)[0][None]).scores


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_planted_filter_is_found(dilation: int) -> None:
    generator = torch.Generator().manual_seed(0)
    planted, layer = (DepthwiseConv(3, 4, 2, dilation, lookahead=dilation) for _ in range(2))
    torch.nn.init.normal_(planted.weight, generator=generator)
    x = torch.randn(2, 3, 400, generator=generator)
    c = Chunk.of(x, torch.tensor([400, 300]))
    with torch.no_grad():
        y = planted(c)
        targets = [row[:, :n].T for row, n in zip(y.x, y.lengths.tolist(), strict=True)]
        # what padding holds is no example
        fit_filters(layer, Chunk(x.masked_fill(~c.valid[:, None], 9.0), c.valid), targets, 1e-9)
    torch.testing.assert_close(layer.weight, planted.weight, atol=1e-4, rtol=0)


def test_planted_weights_and_bias_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, planted = (torch.randn(n, generator=generator) for n in ((5, 3), (5,)))
    layer, bias = Pointwise(3, 5), torch.zeros(5)
    c = Chunk.of(torch.randn(2, 3, 200, generator=generator), torch.tensor([200, 150]))
    targets = [(row[:, :n].T @ weight.T + planted) for row, n in zip(c.x, (200, 150), strict=True)]
    with torch.no_grad():
        assert fit_linear(layer, c, bias, targets, 1e-9) < 1e-9
    torch.testing.assert_close(layer.weight, weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(bias, planted, atol=1e-5, rtol=0)


def test_a_teacher_that_never_looks_ahead_is_found(teacher: sk.Model, corpus: Corpus) -> None:
    for layer in teacher.modules():
        if isinstance(layer, DepthwiseConv):
            layer.weight.data[..., layer.left + 1 :] = 0
    examples = Examples(teacher, corpus(8))
    made, (record,) = transform(teacher, ["fit:lookahead=0,ridge=1e-6"], examples)
    assert made.latency_s < teacher.latency_s
    assert [row.kernel for row, _ in made.config.rows()] == [3, 3, 1]
    assert max(record.report["relative_error"].values()) < 1e-4
    torch.testing.assert_close(scores(made, examples), scores(teacher, examples), atol=0.02, rtol=0)
    assert all(layer.weight.min() > 0 for layer in made.modules() if isinstance(layer, BatchNorm))


def test_fitting_is_nearer_than_cutting(teacher: sk.Model, corpus: Corpus) -> None:
    examples = Examples(teacher, corpus(8))
    # nothing is worth moving a weight
    cut, _ = transform(teacher, ["fit:lookahead=2 1 0,ridge=1e12"], examples)
    made, _ = transform(teacher, ["fit:lookahead=2 1 0"], examples)
    wanted = scores(teacher, examples)
    errors = [(scores(model, examples) - wanted).square().mean() for model in (cut, made)]
    assert errors[1] < 0.5 * errors[0]


def test_folded_norms_count_as_they_are(teacher: sk.Model, corpus: Corpus) -> None:
    folded = sk.build(replace(teacher.config, norm="none")).eval()
    generator = torch.Generator().manual_seed(0)
    for name, weight in folded.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(weight, -0.5, 0.5, generator=generator)
    examples = Examples(folded, corpus(4))
    made, _ = transform(folded, ["fit:lookahead=2"], examples)
    assert made.config.norm == Spec("batch")
    torch.testing.assert_close(scores(made, examples), scores(folded, examples), atol=0.02, rtol=0)


def test_rows_may_have_a_kernel_for_each_layer(teacher: sk.Model) -> None:
    rows = (replace(teacher.config.blocks[1], kernel=(5, 9)), teacher.config.blocks[2])
    config = replace(teacher.config, blocks=(teacher.config.blocks[0], *rows))
    student = Fit(1).student(config)
    assert [row.kernel for row, _ in student.rows()] == [4, (4, 6), 1]


def test_the_front_end_may_be_another(teacher: sk.Model, corpus: Corpus) -> None:
    frontend = "log_mel:n_mels=16,normalize=running:prior_frames=50"
    examples = Examples(teacher, corpus(4))
    made, _ = Fit(2, frontend=frontend)(teacher, examples)
    assert made.config.frontend == Spec.parse(frontend)


def test_what_cannot_be_fitted_is_one_line(teacher: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="fit needs recordings; give --manifest"):
        transform(teacher, ["fit:lookahead=1"])
    examples = Examples(teacher, corpus(2))
    with pytest.raises(ConfigError, match="2 entries for 3 blocks; give one for each block"):
        transform(teacher, [Spec("fit", {"lookahead": [1, 1]})], examples)


@pytest.mark.parametrize("wrong", ["utterances=0", "ridge=0", "ridge=-1"])
def test_parameters_without_a_meaning_are_refused(wrong: str) -> None:
    with pytest.raises(ComponentError, match="give 1 or more, and more than 0"):
        registry().build("transform", f"fit:lookahead=2,{wrong}")
