"""Whether what a module says of itself holds for what it computes."""

from torch import nn

COMPUTES = "forward", "step", "compute", "convolve"
"""The methods in which a module or a layer over time computes."""


def describes(module: nn.Module, name: str, computes: tuple[str, ...] = COMPUTES) -> bool:
    """Whether the attribute or method `name` describes what this very module computes.

    It does where it belongs to the module itself, or to a class that no subclass in between
    computes differently from: a subclass with a `forward`, `step`, `compute` or `convolve` of its
    own has to give the attribute again. `computes` are the methods that count, if they are others.
    """
    own = vars(module)
    if name in own:
        return True
    if any(method in own for method in computes):
        return False
    for kind in type(module).__mro__:
        if name in vars(kind):
            return True
        if any(method in vars(kind) for method in computes):
            return False
    return False
