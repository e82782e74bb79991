"""Whether an attribute that describes a module holds for what the module computes."""

from torch import nn

COMPUTES = "forward", "step", "compute", "convolve"
"""The methods in which a module or a layer over time computes."""


def describes(module: nn.Module, name: str, computes: tuple[str, ...] = COMPUTES) -> bool:
    """Whether the attribute or method `name` describes what this very module computes.

    It does if the module itself has it, or a class of which no subclass computes differently: a
    subclass that overrides `forward`, `step`, `compute` or `convolve` has to define the attribute
    again. `computes` names the methods that count.
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
