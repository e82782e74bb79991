"""Activating-while-pruning: which weights a round removes, and what it leads to."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from speechkit_compression.ap import ActivateWhilePruning
from speechkit_compression.dead_neurons import dead_neurons
from speechkit_compression.magnitude import Magnitude
from speechkit_compression.weights import TARGETS, prunable

import speechkit as sk
from speechkit.errors import ComponentError, ConfigError
from speechkit.nn import Taps
from speechkit.probes import Examples

Corpus = Callable[..., Path]


def moved(model: sk.Model, seed: int = 2) -> sk.Model:
    """The model as if it had been trained with its zeros kept."""
    generator = torch.Generator().manual_seed(seed)
    made = sk.build(model.config).eval()
    made.load_state_dict(model.state_dict())
    with torch.no_grad():
        for weight in prunable(made).values():
            weight += 0.2 * torch.randn(weight.shape, generator=generator) * (weight != 0)
    return made


def flat(model: sk.Model) -> torch.Tensor:
    return torch.cat([w.detach().flatten() for w in prunable(model).values()])


@pytest.fixture
def saved(model: sk.Model, tmp_path: Path) -> Path:
    """The folder of the model from which a round began."""
    sk.save(model, tmp_path / "start")
    return tmp_path / "start"


def falling_convolution(norm: str, negative: bool) -> sk.Model:
    """A stem and one dense convolution after its ReLU; half of the gains may be negative."""
    blocks = tuple(sk.Block(channels=n, kernel=3, separable=False) for n in (8, 12))
    net = sk.MarbleNet(frame_level=True, blocks=blocks, frontend="log_mel:n_mels=16", norm=norm)
    model = sk.build(net, 3).eval()
    if negative:
        gains = model.encoder.get_parameter("0.body.0.norm.weight")
        with torch.no_grad():
            gains[::2] *= -1
    return model


@pytest.mark.parametrize(("norm", "negative"), [("none", False), ("batch", False), ("batch", True)])
def test_paper_013_step_2_only_raises_outputs_so_that_fewer_units_are_dead(
    corpus: Corpus, tmp_path: Path, norm: str, negative: bool
) -> None:
    model = falling_convolution(norm, negative)
    sk.save(model, tmp_path / "start")
    examples = Examples(model, corpus())
    made, report = ActivateWhilePruning(str(tmp_path / "start"), 0.1, 0.1)(model, examples)
    assert report["activating"] == report["zeros"] == round(0.1 * report["weights"])
    changed = {name for name, share in report["layers"].items() if share}
    assert changed == {"encoder.0.body.0.conv.weight"}
    before, after = (outputs(m, examples) for m in (model, made))
    assert all((y >= x).all() for x, y in zip(before, after, strict=True))
    assert any((y > x).any() for x, y in zip(before, after, strict=True))
    dead = [float(dead_neurons()(m, examples.of(m))["dynamic"]) for m in (model, made)]
    assert dead[1] < dead[0]


def outputs(model: sk.Model, examples: Examples) -> list[torch.Tensor]:
    """What the ReLU behind the convolution reads, over valid frames."""
    found = []
    with Taps({"": model.encoder.get_submodule("0.after")}) as taps, torch.no_grad():
        for _, features in examples.of(model):
            model.score(features)
            found += [c.x.transpose(1, 2)[c.valid] for _, _, (c,), _ in taps.take()]
    return found


def test_paper_013_of_a_negative_gain_step_2_removes_positive_weights(
    corpus: Corpus, tmp_path: Path
) -> None:
    model = falling_convolution("batch", True)
    sk.save(model, tmp_path / "start")
    made, report = ActivateWhilePruning(str(tmp_path / "start"), 0.1, 0.1)(
        model, Examples(model, corpus())
    )
    name = "encoder.0.body.0.conv.weight"
    weight, gone = model.get_parameter(name), made.get_parameter(name) == 0
    assert int(gone.sum()) == report["activating"] > 0
    assert (weight[::2][gone[::2]] > 0).all()
    assert (weight[1::2][gone[1::2]] < 0).all()


def test_paper_013_step_2_takes_the_weights_that_moved_least(
    model: sk.Model, saved: Path, corpus: Corpus
) -> None:
    trained = moved(model)
    examples = Examples(trained, corpus())
    made, report = ActivateWhilePruning(str(saved), 0.3, 0.1)(trained, examples)
    count = len(flat(model))
    share = (round(0.3 * count) - round(0.1 * count)) / count
    plain, _ = ActivateWhilePruning(str(saved), share, 0)(trained, examples)
    host, gone = flat(plain) == 0, flat(made) == 0
    second = gone & ~host
    assert int(second.sum()) == report["activating"] == round(0.1 * count)
    assert (gone | ~host).all()
    w, moves = flat(trained), (flat(trained) - flat(model)).abs()
    assert (w[second] < 0).all()
    named = [name for name, x in prunable(model).items() for _ in range(x.numel())]
    free = {name for name, pruned in zip(named, second.tolist(), strict=True) if pruned}
    allowed = torch.tensor([name in free for name in named]) & (w < 0) & ~host
    assert moves[second].max() <= moves[allowed & ~second].min()


def test_step_2_is_left_to_layers_whose_input_is_never_negative(
    model: sk.Model, saved: Path, corpus: Corpus
) -> None:
    trained = moved(model)
    _, report = ActivateWhilePruning(str(saved), 0.15, 0.15)(trained, Examples(trained, corpus()))
    pruned = {name for name, share in report["layers"].items() if share}
    # depthwise kernels and shortcuts behind a ReLU, and the 1×1 layer behind the last one;
    # neither what reads features nor 1×1 layers behind a depthwise convolution
    assert pruned == {
        *(f"encoder.{n}.sum.body.{k}.mixer.weight" for n in range(3) for k in (0, 2)),
        *(f"encoder.{n}.sum.shortcut.channel.weight" for n in range(3)),
        "encoder.3.body.0.conv.weight",
    }


def test_paper_013_after_r_rounds_the_share_of_zeros_is_1_minus_p_to_the_r(
    model: sk.Model, tmp_path: Path, corpus: Corpus
) -> None:
    count = len(flat(model))
    start = model
    for number in range(1, 6):
        sk.save(start, tmp_path / f"{number}")
        trained = moved(start, number)
        round_ = ActivateWhilePruning(str(tmp_path / f"{number}"), 0.2, 0.02, "global")
        made, _ = round_(trained, Examples(trained, corpus(2)))
        zero = flat(made) == 0
        assert abs(int(zero.sum()) - (1 - 0.8**number) * count) <= 1
        assert zero[flat(start) == 0].all()
        start = made


def test_the_other_weights_are_those_of_the_start(
    model: sk.Model, saved: Path, corpus: Corpus
) -> None:
    trained = moved(model)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if name not in prunable(trained):
                parameter.add_(1)
    made, _ = ActivateWhilePruning(str(saved))(trained, Examples(trained, corpus()))
    zero = flat(made) == 0
    assert torch.equal(flat(made), flat(model) * ~zero)
    for name, value in made.state_dict().items():
        if name not in prunable(made):
            assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_without_q_it_is_magnitude_pruning(
    model: sk.Model, saved: Path, corpus: Corpus, scope: str
) -> None:
    trained = moved(model)
    made, _ = ActivateWhilePruning(str(saved), 0.3, 0, scope)(trained, Examples(trained, corpus(2)))
    other, _ = Magnitude(0.3, scope, " ".join(TARGETS))(trained, None)
    assert int(((flat(made) == 0) != (flat(other) == 0)).sum()) <= len(prunable(model))


def test_zeros_that_were_not_kept_are_refused(
    model: sk.Model, tmp_path: Path, corpus: Corpus
) -> None:
    start, _ = Magnitude(0.2)(model, None)
    sk.save(start, tmp_path / "start")
    with pytest.raises(ConfigError, match=r"are not 0 in the model; train it with .*keep_zeros"):
        ActivateWhilePruning(str(tmp_path / "start"))(model, Examples(model, corpus()))


def test_a_start_of_another_net_is_refused(saved: Path, corpus: Corpus) -> None:
    other = falling_convolution("none", False)
    with pytest.raises(ConfigError, match="has another config than the model"):
        ActivateWhilePruning(str(saved))(other, Examples(other, corpus()))


def test_a_net_whose_activations_are_negative_at_times_is_refused(
    tmp_path: Path, corpus: Corpus
) -> None:
    net = sk.MatchboxNet(
        labels=("low", "high"), blocks=(sk.Block(channels=8, kernel=3),) * 2, activation="gelu"
    )
    model = sk.build(net).eval()
    sk.save(model, tmp_path / "start")
    with pytest.raises(ConfigError, match="input is never negative, and there are 0; give a small"):
        ActivateWhilePruning(str(tmp_path / "start"))(model, Examples(model, corpus()))


def test_it_needs_recordings(model: sk.Model, saved: Path) -> None:
    with pytest.raises(ConfigError, match="transform ap needs recordings"):
        ActivateWhilePruning(str(saved))(model, None)


@pytest.mark.parametrize(("share", "q"), [(0.2, 0.3), (1.2, 0.1), (0.2, -0.1)])
def test_wrong_shares_are_refused(share: float, q: float) -> None:
    with pytest.raises(ComponentError, match=f"ap: share={share}, q={q}; give shares from 0 to 1"):
        ActivateWhilePruning("start", share, q)
