"""Fine-tuning that stores little: what is frozen, what is stored, and which gradients there are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from speechkit_methods.mobiletl import MobileTL, ReLUGradient, saved_bytes
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model
from speechkit.nn import BatchNorm, Chunk, Elementwise, FrameWise
from speechkit.train import Run, fit

NORMS = {
    "stem": "stem.body.0.norm",
    "inner": "encoder.0.sum.body.0.norm",
    "last of the body": "encoder.0.sum.body.2.norm",
    "shortcut": "encoder.0.sum.shortcut.norm",
}


def net(**changes: object) -> Model:
    settings = {"size": "3x2x64", "labels": ("no", "yes"), "activation": "silu", **changes}
    model = sk.build(sk.MatchboxNet(**settings))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, BatchNorm):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
    return model.train()


def tuned(model: Model, blocks: int) -> Model:
    method = MobileTL(blocks)
    method.start(model, None)  # type: ignore[arg-type]
    method.gradients(lambda: 0.0, model, 1)
    return model


def frames(lengths: list[int]) -> Chunk:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(lengths), max(lengths), 64, generator=generator)
    return Chunk.of(x.transpose(1, 2), torch.tensor(lengths))


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_paper_113_the_conversion_changes_no_score_by_a_bit(activation: str) -> None:
    model = net(activation=activation).eval()
    audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(2))
    before = model(audio).scores
    names = list(model.state_dict())
    tuned(model, 4).eval()
    assert torch.equal(model(audio).scores, before)
    assert list(model.state_dict()) == names


def ratio(model: Model, other: Model, name: str = "") -> float:
    """What a part of one net, or all of it, saves for the backward pass, over that of another."""
    c = frames([50] * 4)
    c = Chunk(c.x.requires_grad_(bool(name)), c.valid)
    one, two = (m.get_submodule(name) if name else m.score for m in (model, other))
    return saved_bytes(lambda: one(c), model) / saved_bytes(lambda: two(c), other)


def test_paper_113_a_block_and_the_net_save_less_for_the_backward_pass() -> None:
    assert ratio(tuned(net(), 3), net(), "encoder.2") < 0.6
    assert ratio(tuned(net(), 3), net()) < 0.4
    # a net with ReLU saves less than others without the method too
    assert ratio(tuned(net(activation="relu"), 3), net(activation="relu")) < 0.5


def test_paper_113_a_frozen_norm_stores_only_its_scale() -> None:
    model = tuned(net(), 3)
    inner = model.get_submodule("encoder.2.sum.body.0.norm")
    c = frames([50, 30])
    c = Chunk(c.x.requires_grad_(), c.valid)
    assert saved_bytes(lambda: inner(c), inner) == 64 * c.x.element_size()


def test_paper_113_its_gradients_are_those_of_a_fixed_scale_and_a_bias() -> None:
    model = tuned(net(), 3)
    norm = model.get_submodule("encoder.2.sum.body.0.norm")
    assert isinstance(norm, BatchNorm)
    c = frames([20, 20])
    x = c.x.clone().requires_grad_()
    weights = torch.randn(c.x.shape, generator=torch.Generator().manual_seed(3))
    (norm(Chunk(x, c.valid)).x * weights).sum().backward()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(x.grad, weights * scale[:, None])
    torch.testing.assert_close(norm.bias.grad, weights.sum((0, 2)))
    assert norm.weight.grad is None


def test_padding_changes_no_gradient() -> None:
    grads = []
    for extra in (0, 13):
        model = tuned(net(), 2).double()
        model.score(padded(extra)).scores.square().sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in grads[0].items():
        torch.testing.assert_close(grads[1][name], gradient, msg=name)


def padded(extra: int) -> Chunk:
    c = frames([40, 25])
    x = nn.functional.pad(c.x, (0, extra), value=3.0).double()
    return Chunk(x, nn.functional.pad(c.valid, (0, extra)))


def test_paper_113_the_gradient_of_an_activation_is_the_sign_in_one_bit() -> None:
    function = ReLUGradient(nn.Hardswish()).train()
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(4)).requires_grad_()
    y = function(x)
    assert torch.equal(y, nn.functional.hardswish(x))
    weights = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(5))
    (y * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights * (x > 0))
    assert saved_bytes(lambda: function(x), function) == 14  # 105 values
    # in evaluation also the gradient is that of the function
    other = x.detach().requires_grad_()
    function.eval()(other).sum().backward()
    assert other.grad is not None
    assert not torch.equal(other.grad, (x > 0).float())


@pytest.mark.parametrize(
    ("activation", "replaced"),
    [("silu", True), ("gelu", True), ("mish", True), ("hardtanh:low=0,high=6", True)]
    + [(name, False) for name in ("relu", "tanh", "sigmoid", "elu", "softplus")],
)
def test_only_activations_that_are_nearly_relu_are_replaced(
    activation: str, replaced: bool
) -> None:
    model = tuned(net(activation=activation), 3)
    found = [name for name, m in model.named_modules() if isinstance(m, ReLUGradient)]
    assert [name.split(".")[1] for name in found] == (["2", "2", "3", "4"] if replaced else [])


def test_what_is_before_the_last_blocks_has_no_graph_and_keeps_its_statistics() -> None:
    model = tuned(net(), 2)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    features = model.stem(frames([30, 20]))
    for block in list(model.encoder.children())[:-2]:
        features = block(features)
    assert not features.x.requires_grad
    model.score(frames([30, 20]))
    moved = {
        name.split(".")[1] for name, x in model.named_buffers() if not torch.equal(x, before[name])
    }
    assert moved == {"3", "4"}


class Learned(Elementwise):
    expression = "x * sigmoid(beta * x)"

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))


def test_an_activation_with_weights_keeps_its_gradient() -> None:
    model = net()
    for layer in model.encoder.modules():
        if isinstance(layer, FrameWise):
            layer.module = Learned()
    assert not any(isinstance(m, ReLUGradient) for m in tuned(model, 3).modules())


def test_only_the_last_blocks_and_the_head_learn(run: Run, tmp_path: Path) -> None:
    fit(replace(run, steps=1, ema=0.0), tmp_path / "base", device="cpu")
    before = load_file(tmp_path / "base/last/model.safetensors")
    run = replace(run, start_from=tmp_path / "base/last", method=("mobiletl:blocks=2",), ema=0.0)
    metrics = fit(run, tmp_path / "tuned", device="cpu")
    after = load_file(tmp_path / "tuned/last/model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    of_norms = {
        place: {name.rpartition(".")[2] for name in changed if name.startswith(norm)}
        for place, norm in NORMS.items()
    }
    last = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert of_norms == {
        "stem": set(),
        "inner": {"bias"},
        "last of the body": last,
        "shortcut": {"bias"},
    }
    assert "head.linear.weight" in changed
    assert not [name for name in changed if name.startswith(("stem", "frontend"))]
    # the run evaluates what it saves
    assert sk.evaluate(tmp_path / "tuned/best", run.data.dev) == metrics


@pytest.mark.parametrize(
    ("changes", "blocks", "error", "why"),
    [
        ({}, 0, ComponentError, "blocks=0; give 1 or more"),
        ({}, 6, TrainingError, "blocks=6, and the net has 5 blocks"),
        ({"norm": "none"}, 3, TrainingError, "none with norm=none; give a net with norm=batch"),
    ],
)
def test_a_net_that_does_not_fit_is_refused(
    changes: dict[str, object], blocks: int, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        tuned(net(**changes), blocks)


def test_any_number_of_values_is_packed() -> None:
    for count in (1, 7, 8, 9, 64):
        x = torch.randn(1, 1, count, generator=torch.Generator().manual_seed(count))
        x.requires_grad_()
        ReLUGradient(nn.SiLU()).train()(x).sum().backward()
        assert isinstance(x.grad, Tensor)
        assert torch.equal(x.grad, (x > 0).float())
