"""Initial weights: each factory returns `f(model, generator)`, which draws them in place.

Only parameters called `weight` with two dimensions or more are drawn: those of convolutions and
linear layers. Biases, norms and other parameters keep the values they were built with, and so do
the weights that a layer names in `self_initialized`.
"""

from collections.abc import Callable, Iterator

from torch import Generator, Tensor, nn

from speechkit.nn.exempt import exempt

Init = Callable[[nn.Module, Generator], None]


def xavier_uniform(gain: float = 1.0) -> Init:
    """w ~ U(−b, b), b = gain·sqrt(6 / (fan_in + fan_out)). Glorot & Bengio, AISTATS 2010."""

    def draw(model: nn.Module, generator: Generator) -> None:
        for weight in drawn_weights(model):
            nn.init.xavier_uniform_(weight, gain, generator)

    return draw


def kaiming_uniform() -> Init:
    """w ~ U(−b, b), b = sqrt(6 / fan_in), meant for ReLU. He et al., arXiv:1502.01852."""

    def draw(model: nn.Module, generator: Generator) -> None:
        for weight in drawn_weights(model):
            nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)

    return draw


def drawn_weights(model: nn.Module) -> Iterator[Tensor]:
    """The parameters that an init draws, in the order of the state dict."""
    kept = exempt(model, "self_initialized")
    for name, parameter in model.named_parameters():
        is_weight = name.rpartition(".")[2] == "weight" and parameter.ndim >= 2
        if is_weight and id(parameter) not in kept:
            yield parameter
