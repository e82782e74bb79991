"""Trained models made sparse: other activations, ReLUs between layers, a penalty that rises."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from speechkit_activations.methods import ProSparse, rising
from speechkit_activations.relufy import shift
from speechkit_activations.sparse import FATReLU, relu_linear
from speechkit_activations.sparsity import calls, zeros
from torch import Tensor
from torch.nn.functional import cross_entropy

import speechkit as sk
from speechkit.data import Batch
from speechkit.errors import ComponentError, ConfigError, TrainingError
from speechkit.hookspecs import KINDS
from speechkit.models import Block, MatchboxNet, Model, Output
from speechkit.nn import Chunk, Pointwise, Serial, as_layer
from speechkit.probes import Examples
from speechkit.testing import assert_close
from speechkit.train import Data, Run, fit
from speechkit.transforms import transform

BLOCKS = (
    Block(channels=8, kernel=5, stride=2),
    Block(channels=8, kernel=5, repeat=2, residual=True),
    Block(channels=8, kernel=1, separable=False),
)
Sparsity = Callable[[Model], dict[str, Tensor]]
STAGES = [(0.005, 100.0), (0.05, 400.0), (0.2, 1000.0)]


def config(activation: str) -> MatchboxNet:
    frontend = "log_mel:n_mels=16,normalize=running"
    return MatchboxNet(
        labels=("low", "high"), blocks=BLOCKS, frontend=frontend, activation=activation
    )


def trained(activation: str) -> Model:
    """A model whose weights and statistics are not its first ones."""
    torch.manual_seed(0)
    model = sk.build(config(activation)).train()
    audio = 0.1 * torch.randn(4, 6400)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for _ in range(5):
            model(audio)
    return model.eval()


def relufied(model: Model, params: str = "stage=1") -> Model:
    made, _ = transform(model, [f"relufy:{params}"])
    return made


@pytest.fixture
def batch() -> Batch:
    audio = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    return Batch(audio, torch.tensor([8000, 5000]), [], None, [0, 1], ["a", "b"])


def scores(model: Model, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(batch.audio, batch.lengths).scores


def test_paper_015_a_model_of_relu_stays_as_it_is(batch: Batch) -> None:
    model = trained("relu")
    made = relufied(model)
    assert torch.equal(scores(made, batch), scores(model, batch))


@pytest.mark.parametrize("activation", ["swish", "prelu"])
def test_paper_015_the_first_stage_changes_activations_alone(
    activation: str, batch: Batch, sparsity: Sparsity
) -> None:
    model = trained(activation)
    made = relufied(model, "activation=shifted_relu:b=0.5")
    assert str(made.config.activation) == "shifted_relu:b=0.5"
    old = model.state_dict()
    for name, value in made.state_dict().items():
        assert torch.equal(value, old[name]), name
    assert not torch.equal(scores(made, batch), scores(model, batch))
    shares = [share for name, share in sparsity(made).items() if name.endswith("zeros")]
    assert min(shares) > 0.3


def test_paper_015_the_second_stage_gives_every_product_zeros(sparsity: Sparsity) -> None:
    model = trained("swish")
    old = model.state_dict()
    for name, value in relufied(model, "stage=2").state_dict().items():
        assert torch.equal(value, old[name.replace("channel.linear", "channel")]), name
    skipped = [
        [x for name, x in sparsity(made).items() if "channel" in name and "skipped" in name]
        for made in (relufied(model), relufied(model, "stage=2"))
    ]
    assert min(skipped[0]) < 0.1, "behind a depthwise convolution nothing is zero"
    assert min(skipped[1]) > 0.2


def test_paper_015_the_layer_between_is_its_formula() -> None:
    layer = relu_linear(6, 5)
    x = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    expected = layer.linear.weight @ torch.relu(x)  # type: ignore[union-attr,operator]
    assert_close("y", expected, layer(Chunk.of(x)).x, 1e-6)


@pytest.mark.parametrize("share", [0.7, 0.95])
def test_paper_015_the_shift_is_read_off_what_activations_read(share: float, noise: Path) -> None:
    model = trained("swish")
    examples = Examples(model, noise, batch_size=1)
    b = shift(model, examples, share)
    read = torch.cat(
        [
            given.x.transpose(1, 2)[given.valid].flatten()
            for _, features in examples
            for name, given, _ in calls(model, partial(model.score, features))
            if name.endswith("activation")
        ]
    )
    assert (read <= b).double().mean().item() == pytest.approx(share, abs=1e-3)
    assert shift(model, Examples(model, noise), share) == pytest.approx(b, rel=1e-4), "no padding"
    assert shift(model, examples, 0.0) == 0


def test_paper_015_a_share_of_zeros_is_found(noise: Path, sparsity: Sparsity) -> None:
    model = trained("swish")
    made, (applied,) = transform(model, ["relufy:zeros=0.8"], Examples(model, noise))
    b = shift(model, Examples(model, noise), 0.8)
    assert applied.report == {
        "before": ["swish"],
        "activation": f"shifted_relu:b={b}",
        "channel": "linear",
    }
    first = next(share for name, share in sparsity(made).items() if name.endswith("zeros"))
    assert 0.5 < first < 1
    with pytest.raises(ConfigError, match=r"relufy:zeros=0\.8 needs recordings; give --manifest"):
        relufied(model, "zeros=0.8")


def test_a_shift_is_found_from_so_many_values(monkeypatch: pytest.MonkeyPatch, noise: Path) -> None:
    model = trained("swish")
    b = shift(model, Examples(model, noise), 0.8)
    monkeypatch.setattr("speechkit_activations.relufy.MOST_VALUES", 500)
    assert 0 < abs(shift(model, Examples(model, noise), 0.8) - b) < 0.1


def test_paper_015_a_swish_model_is_trained_on_as_relu(tones: Path, tmp_path: Path) -> None:
    run = Run(
        model=config("swish"), data=Data(train=tones, dev=tones, batch_size=4), steps=6, seed=1
    )
    fit(run, tmp_path / "swish", device="cpu")
    made = relufied(sk.load(tmp_path / "swish" / "last"), "stage=2")
    sk.save(made, tmp_path / "made")
    later = replace(
        run, model=made.config, start_from=tmp_path / "made", steps=1, optimizer="sgd:lr=0.0"
    )
    fit(later, tmp_path / "relu", device="cpu")
    ends = sk.load(tmp_path / "relu" / "last")
    assert str(ends.config.channel) == "relu_linear"
    for name, parameter in made.named_parameters():
        assert torch.equal(parameter, ends.get_parameter(name)), f"{name} began anew"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ("stage=3", "stage=3; give 1 or 2"),
        ("zeros=2", "zeros=2, activation=relu; give a share from 0 to 1"),
        ("zeros=0.5,activation=prelu", "activation=prelu; give a share from 0 to 1 and no activ"),
        ("activation=swiglu", "activation swiglu is gated; give one that is not"),
    ],
)
def test_what_cannot_be_made_sparse_is_an_error(params: str, says: str) -> None:
    with pytest.raises(ComponentError, match=says):
        relufied(trained("swish"), params)


def test_rows_lose_what_they_name_themselves() -> None:
    first, *rest = BLOCKS
    rows = (first, *(replace(row, activation="prelu", channel="linear") for row in rest))
    made = relufied(sk.build(replace(config("swish"), blocks=rows)), "stage=2")
    named = {kind: {str(s) for k, s in made.config.components() if k == kind} for kind in KINDS}
    assert (named["activation"], named["channel"]) == ({"relu"}, {"relu_linear"})
    gated = (first, replace(rest[0], activation="swiglu"), *rest[1:])
    with pytest.raises(ComponentError, match="activation swiglu is gated"):
        relufied(sk.build(replace(config("swish"), blocks=gated)))


def test_a_second_stage_is_for_linear_layers() -> None:
    made = relufied(trained("swish"), "stage=2")
    with pytest.raises(ComponentError, match="channel=relu_linear; give one of linear"):
        relufied(made, "stage=2")


def test_paper_096_the_weight_rises_in_stages_without_a_jump() -> None:
    path = [rising(step, STAGES) for step in range(1101)]
    assert path[:101] == [0.005] * 101
    assert [path[100], path[400], path[1000]] == pytest.approx([0.005, 0.05, 0.2])
    assert [path[250], path[700]] == pytest.approx([0.0275, 0.125]), "half-way it is the mean"
    assert path[1000:] == pytest.approx([0.2] * 101)
    steps = [after - before for before, after in pairwise(path)]
    assert min(steps) >= 0
    assert max(steps) < 1e-3
    assert rising(7, [(0.3, 50.0)]) == 0.3


def test_paper_096_the_penalty_is_the_size_of_what_activations_give() -> None:
    net = Serial(first=as_layer(FATReLU(4, relu_calls=9)), second=as_layer(FATReLU(4, 0.5, 9)))
    method = ProSparse("0.3", "5")
    method.start(net, None)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    net.eval()(Chunk.of(x))
    net.train()(Chunk.of(x, torch.tensor([6, 2])))
    losses = method.extra_loss(None, Output(x, torch.ones(2)))  # type: ignore[arg-type]
    frames = torch.cat([torch.relu(x[0]), torch.relu(x[1, :, :2])], dim=1)
    # the second has nothing to cut yet
    assert_close("loss", 0.3 * 2 * frames.sum(0).mean().expand(2), losses, 1e-6)
    losses.mean().backward()
    assert x.grad is not None
    assert not x.grad[1, :, 2:].any()
    with pytest.raises(TrainingError, match="needs activation=fatrelu with relu_calls=N"):
        ProSparse("1", "5").start(sk.build(config("fatrelu")), None)  # type: ignore[arg-type]
    for factors, ends in (("1 2", "5"), ("1 2", "5 5"), ("", "")):
        with pytest.raises(TrainingError, match="give as many of both, ends rising"):
            ProSparse(factors, ends)


def test_paper_096_the_threshold_comes_at_the_end(line: Tensor) -> None:
    module = FATReLU(1, 0.5, relu_calls=3)
    cut = FATReLU(1, 0.5)(line)
    assert torch.equal(module.eval()(line), cut)
    module.train()
    for call in range(5):
        assert torch.equal(module(line), torch.relu(line) if call < 3 else cut)
    restored = FATReLU(1, 0.5, relu_calls=3)
    restored.load_state_dict(module.state_dict())
    assert torch.equal(restored(line), cut)
    assert not FATReLU(1).state_dict(), "a model of ReLU may become one of it"


def test_paper_096_a_run_saves_how_far_it_is_and_goes_on(tones: Path, tmp_path: Path) -> None:
    run = Run(
        model=config("fatrelu:relu_calls=4"),
        data=Data(train=tones, dev=tones, batch_size=4),
        steps=5,
        schedule="constant",
        ema=0.9,
        method=("prosparse:factors=0.1 1,ends=2 5",),
    )
    fit(run, tmp_path / "run", device="cpu")
    layers = [m for m in sk.load(tmp_path / "run" / "last").modules() if isinstance(m, FATReLU)]
    assert [int(layer.calls) for layer in layers] == [5] * len(layers)
    fit(replace(run, steps=3), tmp_path / "parts", device="cpu")
    fit(run, tmp_path / "parts", resume=True, device="cpu")
    for file in ("model.safetensors", "training/weights.safetensors"):
        whole, parts = (tmp_path / out / "last" / file for out in ("run", "parts"))
        assert whole.read_bytes() == parts.read_bytes(), file


def toy(factors: str) -> tuple[float, float]:
    """Zeros of a net of 256 units and its accuracy, after training on labels two fifths wrong."""
    chance = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    teacher = torch.randn(20, generator=chance)

    def drawn(count: int, wrong: float) -> tuple[Chunk, Tensor]:
        x = torch.randn(1, count, 20, generator=chance)
        label = (x @ teacher > 0)[0] ^ (torch.rand(count, generator=chance) < wrong)
        return Chunk.of(x.transpose(1, 2)), label.long()

    (seen, labels), (unseen, truth) = drawn(150, 0.4), drawn(1000, 0.0)
    activation = as_layer(FATReLU(256, relu_calls=280))
    net = Serial(Pointwise(20, 256, bias=True), activation, Pointwise(256, 2))
    method = ProSparse(factors, "100 200 300")
    method.start(net, None)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        y = net(seen)
        extra = method.extra_loss(None, Output(y.x, y.lengths))  # type: ignore[arg-type]
        (cross_entropy(y.x[0].T, labels) + extra.mean()).backward()
        optimizer.step()
    with torch.no_grad():
        (_, _, _), (_, given, y) = calls(net.eval(), lambda: net(unseen))
    count, total = zeros(given).tolist()
    return count / total, (y.x[0].argmax(0) == truth).double().mean().item()


def test_paper_096_zeros_grow_and_accuracy_does_not_fall() -> None:
    (dense, before), (sparse, after) = toy("0 0 0"), toy("0.001 0.01 0.05")
    assert 0.4 < dense < 0.6
    assert sparse > 0.88
    assert after > before - 0.01
