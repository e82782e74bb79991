"""The trace of a Hessian, where it is known."""

from pathlib import Path

import pytest
import torch
from speechkit_methods.sharpness import curvatures, sharpness, signs
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.models import Model, build
from speechkit.nn import Chunk, Taps
from speechkit.probes import Examples, probe
from speechkit.train import Run


def drawn(size: int, count: int) -> list[Tensor]:
    return list(signs(count, size, torch.Generator().manual_seed(0)))


def test_paper_090_the_trace_of_a_quadratic_is_found_within_its_error() -> None:
    chance = torch.Generator().manual_seed(1)
    half = torch.randn(30, 30, generator=chance)
    w = torch.randn(30, generator=chance, requires_grad=True)
    loss = 0.5 * (half @ w).square().sum()
    found = curvatures(loss, [w], drawn(30, 200))
    error = float(found.std()) / 200**0.5
    assert 0 < error < 0.05 * float(half.square().sum())
    assert float(found.mean()) == pytest.approx(float(half.square().sum()), abs=3 * error)


def test_random_signs_find_the_trace_of_a_diagonal_exactly() -> None:
    # normal vectors would have an error here
    scale = torch.tensor([3.0, -1.0, 0.5])
    one, unused = torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)
    loss = 0.5 * (scale * one.square()).sum()
    assert curvatures(loss, [one, unused], drawn(5, 7)).tolist() == [2.5] * 7


def head_only(model: Model) -> Model:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    return model


def test_the_trace_in_the_weights_of_a_softmax_is_that_of_its_formula(run: Run) -> None:
    model = head_only(build(run.model)).eval()
    with torch.no_grad():
        model.get_parameter("head.linear.weight").mul_(5)
    examples = Examples(model, run.data.dev, batch_size=3)
    expected = 0.0
    for _, features in examples:
        with Taps({"pool": model.get_submodule("head.pool")}) as taps:
            p = model.score(features).scores.softmax(1)
        (pooled,) = taps.take()
        # Σ_k p_k (1 − p_k) · (|h|² + 1), the 1 for the bias
        square = pooled.output.x.squeeze(2).square().sum(1) + 1
        total = ((p - p.square()).sum(1) * square).sum()
        expected += total.item() / len(examples.utterances)
    found = probe(model, ["sharpness:vectors=400"], examples)["sharpness:vectors=400"]
    assert float(found["trace_error"]) < 0.1 * expected
    assert float(found["trace"]) == pytest.approx(expected, abs=3 * float(found["trace_error"]))


def test_the_curvature_of_a_whole_net_is_the_change_of_its_gradient(run: Run) -> None:
    model = build(run.model).double().eval()
    examples = Examples(model, run.data.dev)
    ((batch, features),) = examples
    features = Chunk(features.x.double(), features.valid)
    weights = list(model.parameters())
    start = parameters_to_vector(weights).detach()

    def gradient(at: Tensor) -> Tensor:
        vector_to_parameters(at, weights)
        loss = examples.loss(model.score(features), batch).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    expected = []
    for z in drawn(len(start), 2):
        change = gradient(start + 1e-6 * z) - gradient(start - 1e-6 * z)
        expected.append((change @ z.double()).item() / 2e-6)
    vector_to_parameters(start, weights)
    found = sharpness(vectors=2)(model, examples)
    assert found["trace"].item() == pytest.approx(sum(expected) / 2, rel=1e-4)
    # the standard error of two numbers
    assert found["trace_error"].item() == pytest.approx(
        abs(expected[0] - expected[1]) / 2, rel=1e-4
    )


def test_what_has_no_trace_is_refused(run: Run, tmp_path: Path) -> None:
    ctc = build(sk.QuartzNet(labels=("a",), blocks=run.model.blocks))
    with pytest.raises(ComponentError, match="no second derivative of the loss ctc; give a model"):
        probe(ctc, ["sharpness"], Examples(ctc, run.data.dev))
    with pytest.raises(ComponentError, match="vectors=1; give at least 2"):
        sharpness(vectors=1)
