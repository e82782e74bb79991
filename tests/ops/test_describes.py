"""What a class gives holds for a subclass, until that computes something else."""

import pytest
from torch import Tensor, nn

from speechkit.nn import Chunk, StreamLayer, Windowed
from speechkit.ops.describes import describes


class Shift(nn.Module):
    expression = "shift"

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Renamed(Shift):
    pass


class Other(Shift):
    def forward(self, x: Tensor) -> Tensor:
        return x + 2


class Again(Other):
    expression = "again"


class Mean(Windowed):
    def macs(self, frames: int) -> int:
        return frames

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        return x[:, :, :frames]


class Median(Mean):
    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        return x[:, :, :frames] * 2


class Once(StreamLayer):
    def step(self, c: Chunk, state: tuple[()]) -> tuple[Chunk, tuple[()]]:
        return c, state


def test_other_methods_may_count() -> None:
    class Scaled(Shift):
        def scale(self) -> int:
            return 2

        def lower_scale(self) -> int:
            return 2

    class Tripled(Scaled):
        def scale(self) -> int:
            return 3

    assert describes(Scaled(), "lower_scale", ("scale",))
    assert describes(Tripled(), "lower_scale")
    assert not describes(Tripled(), "lower_scale", ("scale",))


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        (Shift(), "expression", True),
        (Renamed(), "expression", True),
        (Other(), "expression", False),
        (Again(), "expression", True),
        (Shift(), "fuse", False),
        (Mean(0, 0, 1), "macs", True),
        (Median(0, 0, 1), "macs", False),
        (Mean(0, 0, 1), "lower", False),
        (StreamLayer(), "lower", True),
        (Once(), "lower", False),
    ],
)
def test_an_attribute_describes_what_computes_as_its_class(
    module: nn.Module, name: str, expected: bool
) -> None:
    assert describes(module, name) == expected


def test_a_module_with_a_forward_of_its_own_is_another() -> None:
    module = Shift()
    module.forward = lambda x: x  # type: ignore[method-assign]
    assert not describes(module, "expression")
    module.expression = "identity"
    assert describes(module, "expression")
