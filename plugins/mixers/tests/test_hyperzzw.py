"""A kernel that a small net makes from positions and from the input, for each row or frame."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from speechkit_mixers.hyperzzw import HyperZZW, SlowNet, hyperzzw, hyperzzw_running
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError, StreamError
from speechkit.nn import Chunk, StreamLayer
from speechkit.train.optim import parameter_groups


def noise(frames: int = 40, rows: int = 3) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    return torch.randn(rows, 6, frames, generator=chance, dtype=torch.float64)


def made(*shape: Any, factory: Callable[..., StreamLayer] = hyperzzw, **params: Any) -> StreamLayer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return factory(6, *(shape or (5, 1, 1, "same")), **{"hidden": 4, **params}).double()


def net_of(layer: StreamLayer) -> SlowNet:
    (net,) = [m for m in layer.modules() if isinstance(m, SlowNet)]
    return net


def test_paper_107_each_rows_kernel_is_its_own() -> None:
    layer, x = made(), noise()
    assert isinstance(layer, HyperZZW)
    # parts of equal lengths, of other lengths, and fewer frames than parts
    lengths = [40, 23, 3]
    y = layer(Chunk.of(x, torch.tensor(lengths))).x
    for row, n in enumerate(lengths):
        alone = x[row : row + 1, :, :n]
        z = F.adaptive_avg_pool1d(alone, 5).transpose(1, 2)[:, None]
        kernel = layer.net(z)[0, 0].T
        expected = F.conv1d(alone, kernel[:, None], padding=2, groups=6)
        torch.testing.assert_close(y[row : row + 1, :, :n], expected, rtol=0, atol=1e-12)


def test_paper_107_the_kernel_is_that_of_the_paper() -> None:
    net = net_of(made())
    chance = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=chance, dtype=torch.float64))
    z = torch.randn(5, 6, generator=chance, dtype=torch.float64)

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    places = [-1.0, -0.5, 0.0, 0.5, 1.0]
    given = [gelu(net.mix(net.reduce(one))) for one in z]
    waves = [
        [(a * p + b).sin() for p in places] for a, b in zip(net.rates, net.phases, strict=True)
    ]
    h = waves[0]
    for layer in range(2):
        h = [
            wave * net.slow[layer](one) + net.shifts[layer]
            for wave, one in zip(waves[layer + 1], h, strict=True)
        ]
        length = torch.stack(h).square().sum(0).sqrt()
        h = [
            (net.alphas[layer] + net.gammas[layer] / length) * one * net.fast[layer](cond)
            for one, cond in zip(h, given, strict=True)
        ]
    expected = torch.stack([net.out(one) for one in h])
    torch.testing.assert_close(net(z[None, None])[0, 0], expected, rtol=0, atol=1e-12)


def test_paper_107_the_norm_passes_only_the_gradient_of_the_direction() -> None:
    net, z = net_of(made()), torch.zeros(1, 1, 1, 6, dtype=torch.float64)
    with torch.no_grad():
        net.gammas.zero_()
    net(z).sum().backward()
    assert not any(slow.weight.grad.any() for slow in net.slow)  # type: ignore[union-attr]
    assert net.out.weight.grad is not None
    assert net.out.weight.grad.any()


def test_paper_107_more_taps_sample_the_same_function() -> None:
    few = net_of(made(9, 1, 1, 0))
    with torch.no_grad():
        few.gammas.zero_()
    many = copy.deepcopy(few)
    many.kernel = 17
    z = noise(1, 2).transpose(1, 2)[:, None]
    torch.testing.assert_close(many(z)[:, :, ::2], few(z), rtol=0, atol=1e-12)


def test_paper_107_without_conditions_it_is_a_convolution() -> None:
    layer, x = made(), noise()
    net = net_of(layer)
    with torch.no_grad():
        for fast in net.fast:
            fast.weight.zero_()  # type: ignore[operator]
    kernel = net(torch.zeros(1, 1, 1, 6, dtype=torch.float64))[0, 0].T
    expected = F.conv1d(x, kernel[:, None], padding=2, groups=6)
    torch.testing.assert_close(layer(Chunk.of(x)).x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factory", [hyperzzw, hyperzzw_running])
@pytest.mark.parametrize("training", [False, True])
def test_paper_107_batch_mates_change_nothing(
    factory: Callable[..., StreamLayer], training: bool
) -> None:
    layer = made(factory=factory).train(training)
    lengths = torch.tensor([40, 23, 3])
    x = noise()
    together = layer(Chunk.of(x, lengths)).masked
    for row, n in enumerate(lengths.tolist()):
        alone = layer(Chunk.of(x[row : row + 1, :, :n])).x
        torch.testing.assert_close(together[row : row + 1, :, :n], alone, rtol=0, atol=1e-12)


def test_weight_decay_spares_waves_and_the_norm() -> None:
    layer = made()
    _, spared = ({id(p) for p in group["params"]} for group in parameter_groups(layer))
    found = {name for name, p in net_of(layer).named_parameters() if id(p) in spared}
    assert found == {"rates", "phases", "shifts", "alphas", "gammas"}


@pytest.mark.parametrize("shape", [(5, 1, 1, "same"), (4, 2, 2, 3), (5, 3, 1, 0)])
def test_the_mean_so_far_makes_it_stream(shape: tuple[Any, ...]) -> None:
    kernel, stride, dilation, lookahead = shape
    layer = made(*shape, factory=hyperzzw_running, frames=8)
    assert layer.right == (2 if lookahead == "same" else lookahead)
    x, lengths = noise(), torch.tensor([40, 23, 1])
    sk.testing.check_stream(layer, x, lengths)
    # frame by frame, with the kernel of the mean up to that frame
    y, left = layer(Chunk.of(x)).x, dilation * (kernel - 1) - int(layer.right)
    padded = F.pad(x, (left, int(layer.right)))
    for o in range(y.shape[2]):
        t = o * stride
        weights = (torch.arange(t, -1, -1).double() / -8).exp()
        z = (x[:, :, : t + 1] @ weights / weights.sum())[:, None, None]
        kernels = net_of(layer)(z)[:, 0].transpose(1, 2)
        window = padded[:, :, t : t + dilation * (kernel - 1) + 1 : dilation]
        expected = (window * kernels).sum(2)
        torch.testing.assert_close(y[:, :, o], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 1, 1, "same"), (4, 2, 2, 3), (5, 3, 1, 0)])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_its_native_step_is_the_layers(shape: tuple[Any, ...], layers: int) -> None:
    layer = made(*shape, factory=hyperzzw_running, frames=8, hidden=5, layers=layers).float()
    chance = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=chance))
    sk.testing.check_native(layer, noise().float(), torch.tensor([40, 23, 1]))


def test_a_whole_utterance_is_refused_in_a_stream() -> None:
    with pytest.raises(StreamError, match="hyperzzw_running"):
        made().step(Chunk.of(noise()), ())


def test_a_built_net_begins_as_the_authors() -> None:
    rows = (
        sk.Block(channels=64, kernel=11),
        sk.Block(channels=64, kernel=13, residual=True, mixer="hyperzzw"),
    )
    model = sk.build(sk.MatchboxNet(labels=("a", "b"), blocks=rows))
    (net,) = [m for m in model.modules() if isinstance(m, SlowNet)]
    bound = math.sqrt(3 / 32)
    for linear in (*net.slow, *net.fast):
        assert linear.weight.abs().max() <= bound  # type: ignore[operator]
        assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)  # type: ignore[operator]
        assert (linear.bias == 1).all()  # type: ignore[union-attr]
    out = bound / math.sqrt(13)
    assert net.out.weight.abs().max() <= out
    assert net.out.weight.std().item() == pytest.approx(out / 3**0.5, rel=0.1)


def test_paper_107_waves_begin_with_the_rates_of_the_authors() -> None:
    """2π · frequency · γ · U(−1, 1), γ ~ Gamma(6 / (l + 1), 1) on layer l; E γ² = k + k²."""
    torch.manual_seed(0)
    nets = [SlowNet(6, 5, 200, 2, frequency=0.5) for _ in range(100)]
    for layer, shape in enumerate((6.0, 3.0, 2.0)):
        rates = torch.cat([net.rates[layer] for net in nets])
        spread = math.pi * ((shape + shape**2) / 3) ** 0.5
        assert rates.std().item() == pytest.approx(spread, rel=0.04)
        assert abs(rates.mean()) < 0.03 * spread
    net = nets[0]
    assert not net.phases.any()
    assert (net.alphas == 1).all()
    assert net.gammas.unique().tolist() == [pytest.approx(0.1)]


def test_what_makes_no_kernel_is_refused() -> None:
    for params in ({"hidden": 0}, {"layers": 0}, {"frequency": 0.0}):
        with pytest.raises(ComponentError, match=next(iter(params))):
            made(**params)
    with pytest.raises(ComponentError, match="frames=0"):
        made(factory=hyperzzw_running, frames=0)
    with pytest.raises(ComponentError, match="kernel=1"):
        made(1, 1, 1, 0)
