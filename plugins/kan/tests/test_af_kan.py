"""AF-KAN against its formula, written out for single numbers."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from speechkit_kan.af_kan import ACTIVATIONS, AFKAN, GlobalAttention, SpatialAttention
from torch import Tensor

import speechkit as sk
from speechkit.nn import Chunk
from speechkit.testing import assert_close, check_native

ACTS: dict[str, Callable[[float], float]] = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
}
FUNCS: dict[str, Callable[[float, float], float]] = {
    "quad1": lambda a, b: (a * b) ** 2,
    "quad2": lambda a, b: a * b + a**2 + b**2,
    "sum": lambda a, b: a + b,
    "prod": lambda a, b: a * b,
    "sum_prod": lambda a, b: a + b + a * b,
    "cubic1": lambda a, b: (a + b) * (a**2 + b**2),
    "cubic2": lambda a, b: (a * b) ** 3,
}
CHANNELS, OUTPUTS, GRID, ORDER = 6, 4, 3, 2
FUNCTIONS = GRID + ORDER


def softmax(scores: list[float]) -> list[float]:
    total = sum(map(math.exp, scores))
    return [math.exp(score) / total for score in scores]


def reduced(layer: AFKAN, phi: list[list[float]]) -> list[float]:
    """One number for each channel, from its functions."""
    reduce, sums = layer.reduce, [sum(row) for row in phi]
    if isinstance(reduce, GlobalAttention):
        w, tau = reduce.score.weight[0].tolist(), max(reduce.temperature.item(), 1.0)
        scores = [sum(a * b for a, b in zip(w, row, strict=True)) / tau for row in phi]
        return [share * total for share, total in zip(softmax(scores), sums, strict=True)]
    if not isinstance(reduce, SpatialAttention):
        w, bias = reduce.linear.weight[0].tolist(), reduce.linear.bias.item()  # type: ignore[union-attr,operator,index]
        return [sum(a * b for a, b in zip(w, row, strict=True)) + bias for row in phi]
    taps, shifts = reduce.score.weight[:, 0].tolist(), reduce.score.bias.tolist()  # type: ignore[union-attr]
    tau = max(reduce.temperature.item(), 1.0)
    padded = [[0.0] * FUNCTIONS, *phi, [0.0] * FUNCTIONS]
    y = []
    for i in range(CHANNELS):
        scores = [
            (sum(taps[j][k] * padded[i + k][j] for k in range(3)) + shifts[j]) / tau
            for j in range(FUNCTIONS)
        ]
        y.append(sum(a * b for a, b in zip(softmax(scores), phi[i], strict=True)))
    return y


def formula(layer: AFKAN, frame: list[float], act: str, func: str) -> list[float]:
    """The output for one frame."""
    f, combine = ACTS[act], FUNCS[func]
    ends = list(zip(layer.low.tolist(), layer.high.tolist(), strict=True))
    phi = [[combine(f(x - low), f(high - x)) for low, high in ends] for x in frame]
    if layer.func_norm:
        least, most = min(map(min, phi)), max(map(max, phi))
        phi = [[(value - least) / (most - least + 1e-8) for value in row] for row in phi]
    y = reduced(layer, phi)
    mean = sum(y) / CHANNELS
    variance = sum((value - mean) ** 2 for value in y) / CHANNELS
    assert layer.norm is not None
    gains, shifts = layer.norm.weight.tolist(), layer.norm.bias.tolist()
    normal = [
        (value - mean) / math.sqrt(variance + layer.norm.eps) * gain + shift
        for value, gain, shift in zip(y, gains, shifts, strict=True)
    ]
    activated = list(map(f, normal))
    return [
        sum(a * b for a, b in zip(row, activated, strict=True)) for row in layer.weight.tolist()
    ]


def made(**options: str) -> AFKAN:
    """A layer in which every parameter matters; τ starts at √6, so above 1."""
    torch.manual_seed(0)
    layer = AFKAN(CHANNELS, OUTPUTS, grid=GRID, order=ORDER, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in (*layer.reduce.parameters(), *layer.norm.parameters()):  # type: ignore[union-attr]
            if parameter.ndim:
                parameter.add_(torch.randn(parameter.shape).double())
    return layer


def check(layer: AFKAN, act: str = "silu", func: str = "quad1") -> None:
    x = torch.randn(2, 5, CHANNELS, generator=torch.Generator().manual_seed(1)).double()
    rows = [[formula(layer, frame, act, func) for frame in row] for row in x.tolist()]
    wanted = torch.tensor(rows, dtype=torch.float64)
    got: Tensor = layer(Chunk.of(x.transpose(1, 2))).x
    assert_close("AF-KAN", wanted.transpose(1, 2), got, 1e-9)


@pytest.mark.parametrize("reduce", ["global_attn", "multistep", "spatial_attn"])
@pytest.mark.parametrize("func_norm", ["frame", "none"])
def test_paper_033_a_frame_is_the_formula(reduce: str, func_norm: str) -> None:
    check(made(reduce=reduce, func_norm=func_norm))


@pytest.mark.parametrize("reduce", ["global_attn", "spatial_attn"])
@pytest.mark.parametrize("temperature", [3.0, 0.25])
def test_paper_033_scores_are_divided_by_a_temperature_of_at_least_one(
    reduce: str, temperature: float
) -> None:
    layer = made(reduce=reduce)
    layer.reduce.temperature.data.fill_(temperature)  # type: ignore[union-attr,operator]
    check(layer)
    # the first one is √C
    assert AFKAN(9, 2, reduce=reduce).reduce.temperature.item() == pytest.approx(3)  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("act", ACTS)
def test_paper_033_each_activation_of_the_authors_is_the_formula(act: str) -> None:
    assert ACTS.keys() == ACTIVATIONS.keys()
    layer = made(act=act)
    check(layer, act=act)
    check_native(layer.float(), torch.randn(2, CHANNELS, 20))


@pytest.mark.parametrize("func", FUNCS)
def test_paper_033_each_function_of_the_authors_is_the_formula(func: str) -> None:
    check(made(func=func), func=func)


def test_paper_033_an_older_model_without_a_temperature_gives_its_scores(tmp_path: Path) -> None:
    config = sk.MatchboxNet(labels=("a", "b"), size="3x1x64", channel="af_kan:reduce=spatial_attn")
    sk.save(sk.build(config), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = {name: x for name, x in load_file(path).items() if "temperature" not in name}
    save_file(tensors, path)
    layers = [m for m in sk.load(tmp_path / "model").modules() if isinstance(m, SpatialAttention)]
    assert layers
    assert all(layer.temperature.item() == 1 for layer in layers)
    y = torch.randn(2, 9, 64, 6, generator=torch.Generator().manual_seed(0))
    rows = y.flatten(0, 1).transpose(1, 2)
    before = (layers[0].score(rows).transpose(1, 2).view_as(y).softmax(-1) * y).sum(-1)
    assert torch.equal(layers[0](y), before)
