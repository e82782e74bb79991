"""Checks of what a layer computes: shapes, dtypes, gradients, and a complete state dict."""

import copy

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.func import functional_call

from speechkit.models.inits import drawn_weights
from speechkit.nn import Chunk, StreamLayer
from speechkit.plugins import Entry
from speechkit.testing.specimen import Specimen, specimens, used
from speechkit.testing.stream import assert_close

TRAINING_STEPS = 12
"""Enough steps that a part which is sometimes skipped is skipped in one of them."""
EXTREMES = (0.0, 1e-6, -1e-6, 30.0, -30.0, 1e3, -1e3)


def check_shape_and_dtype(entry: Entry) -> None:
    """Channels and frames are those of its kind, in three dtypes, also for one frame; no NaN."""
    for dtype in _dtypes(entry):
        for specimen in used(entry, dtype):
            x = specimen.input(2, dtype)
            for part in (x, x[:1], x[:1, :, : specimen.layer.stride]):
                _check_output(entry, specimen, part)
            for extreme in EXTREMES:
                y = _run(specimen, torch.full_like(x[:1], extreme))
                assert torch.isfinite(y.masked).all(), f"{specimen}: not finite at {extreme:g}"


def check_gradients(entry: Entry) -> None:
    """Gradients are correct and finite, and reach every parameter."""
    for specimen in used(entry):
        _check_reach(specimen)
        _check_finite(specimen)
        _check_derivative(specimen)


def check_every_step_trains(entry: Entry) -> None:
    """In each of several training steps a gradient, which may be zero, reaches every parameter.

    Processes that share a batch wait for the gradients of all parameters.
    """
    for specimen in used(entry):
        layer = specimen.train().layer
        trained = {n: p for n, p in layer.named_parameters() if p.requires_grad}
        for step in range(TRAINING_STEPS if trained else 0):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(step)
                # with a gradient even where no parameter takes part
                x = specimen.input(4, seed=step).requires_grad_()
                y = layer(Chunk.of(x)).masked
            gradients = torch.autograd.grad(
                y.square().sum(), list(trained.values()), allow_unused=True
            )
            for (name, parameter), gradient in zip(trained.items(), gradients, strict=True):
                assert gradient is not None, (
                    f"{specimen}: no gradient reaches {name} in training step {step + 1}; "
                    "multiply by 0 where a part is left out"
                )
                with torch.no_grad():
                    parameter.sub_(gradient.sign(), alpha=1e-3)


def check_init_keeps_the_start(entry: Entry) -> None:
    """A model's init draws no weight that starts with the same values in every layer."""
    for specimen, other in zip(specimens(entry), specimens(entry, seed=1), strict=True):
        again = dict(other.layer.named_parameters())
        drawn = {id(weight) for weight in drawn_weights(specimen.layer)}
        for name, weight in specimen.layer.named_parameters():
            assert id(weight) not in drawn or not torch.equal(weight, again[name]), (
                f"{specimen}: a model's init overwrites the first values of {name}; name the "
                "weight in self_initialized"
            )


def check_state_dict_round_trip(entry: Entry) -> None:
    """A new layer that loads its state dict returns the same."""
    for specimen, other in zip(used(entry), specimens(entry, seed=1), strict=True):
        other.layer.double().load_state_dict(specimen.layer.state_dict())
        used_numbers, new_numbers = _numbers(specimen.layer), _numbers(other.layer)
        for name, value in used_numbers.items():
            assert new_numbers.get(name, value) == value, (
                f"{specimen}: its attribute {name} is {value} after training and "
                f"{new_numbers[name]} in a layer that loads its state dict; make it a buffer"
            )
        for training in (False, True):
            before, after = (
                _seeded(layer.train(training), specimen.input())
                for layer in (specimen.layer, other.layer)
            )
            mode = ", in training" if training else ""
            name = f"{specimen} after its state dict was loaded into a new one{mode}"
            assert_close(name, before, after, rtol=0)


def _numbers(layer: StreamLayer) -> dict[str, float]:
    """The attributes of it and its submodules that are numbers."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float) and name != "training"
    }


def _check_output(entry: Entry, specimen: Specimen, x: Tensor) -> None:
    y, layer = _run(specimen, x), specimen.layer
    channels = layer.channels_out(specimen.c_in)
    assert specimen.c_out in (None, channels), (
        f"{specimen}: channels_out({specimen.c_in}) is {channels}, not {specimen.c_out}"
    )
    # a clip has one frame, whatever its length
    per_clip = entry.component.time == "utterance" and y.x.shape[2] == 1
    frames = 1 if per_clip else -(-x.shape[2] * layer.rate // layer.stride)
    shape = x.shape[0], channels, frames
    assert y.x.shape == shape, f"{specimen}: {list(x.shape)} gives {list(y.x.shape)}, not {shape}"
    assert y.valid.shape == (x.shape[0], y.x.shape[2]), (
        f"{specimen}: valid {list(y.valid.shape)} beside frames {list(y.x.shape)}"
    )
    # scores may be more precise than the layers before them
    wider = entry.kind == "head" and y.x.dtype == torch.promote_types(x.dtype, torch.float32)
    assert y.x.dtype == x.dtype or wider, f"{specimen}: {y.x.dtype} from {x.dtype}"
    assert torch.isfinite(y.masked).all(), f"{specimen}: not finite in {x.dtype}"


def _check_reach(specimen: Specimen) -> None:
    layer = specimen.layer.train()
    layer.zero_grad()
    y = layer(Chunk.of(specimen.input(4)))
    # random weights, since a norm's outputs may always have the same sum
    weights = torch.randn(y.x.shape, generator=torch.Generator().manual_seed(0), dtype=y.x.dtype)
    if y.x.requires_grad:
        (y.masked * weights).sum().backward()
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad:
            grad = parameter.grad
            assert grad is not None, f"{specimen}: no gradient reaches {name}"
            assert grad.any(), f"{specimen}: the gradient of {name} is 0"
            assert torch.isfinite(grad).all(), f"{specimen}: the gradient of {name} is not finite"


def _check_finite(specimen: Specimen) -> None:
    layer = specimen.layer.eval()
    for extreme in EXTREMES:
        x = torch.full_like(specimen.input(1), extreme).requires_grad_()
        y = layer(Chunk.of(x)).masked
        if y.requires_grad:
            y.sum().backward()
            finite = x.grad is None or torch.isfinite(x.grad).all()
            assert finite, f"{specimen}: the gradient is not finite at {extreme:g}"


def _check_derivative(specimen: Specimen) -> None:
    """Checks derivatives by x, and along one random direction of unit length for all parameters."""
    parameters = {n: p for n, p in specimen.layer.named_parameters() if p.requires_grad}
    chance = torch.Generator().manual_seed(0)
    directions = {
        name: _unit(torch.randn(p.shape, generator=chance, dtype=p.dtype))
        for name, p in parameters.items()
    }
    x = specimen.input(2)[:, :, : 4 * specimen.layer.stride].detach().requires_grad_()
    at = torch.zeros((), dtype=x.dtype, requires_grad=bool(parameters))
    for training in (True, False):
        mode = "training" if training else "evaluation"

        def function(x: Tensor, at: Tensor, training: bool = training) -> Tensor:
            # a call in training may change the layer and draw random numbers
            layer = copy.deepcopy(specimen.layer).train(training)
            given = {name: p + at * directions[name] for name, p in parameters.items()}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                y: Tensor = functional_call(layer, given, (Chunk.of(x),)).masked
            return y

        if not function(x, at).requires_grad:
            continue
        try:
            gradcheck(function, (x, at), fast_mode=True)
        except GradcheckError as error:
            reason = str(error).strip().splitlines()[0]
            raise AssertionError(
                f"{specimen} in {mode}: the gradient is not that of the function: {reason}"
            ) from error


def _run(specimen: Specimen, x: Tensor) -> Chunk:
    with torch.no_grad():
        y: Chunk = specimen.layer(Chunk.of(x))
    return y


def _seeded(layer: StreamLayer, x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        y: Tensor = layer(Chunk.of(x)).masked
    return y


def _unit(x: Tensor) -> Tensor:
    unit: Tensor = x / x.norm()
    return unit


def _dtypes(entry: Entry) -> tuple[torch.dtype, ...]:
    # audio is float32, and there is no Fourier transform in bfloat16
    narrow = () if entry.kind == "frontend" else (torch.bfloat16,)
    return (torch.float64, torch.float32, *narrow)
