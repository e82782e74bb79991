"""Records the inputs and outputs of layers while a net runs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn


class Call(NamedTuple):
    """One call of a layer: its arguments and what it returned."""

    name: str
    layer: nn.Module
    args: tuple[Any, ...]
    output: Any


class Taps:
    """Records the calls of named layers in order.

        with Taps(dict(model.encoder.named_children())) as taps:
            model(audio)
        for name, layer, (c,), y in taps.take():
            ...

    Outside `with` they record until `remove()`. With `training_only` calls in evaluation are left
    out. A copy of the net is not recorded.
    """

    def __init__(self, layers: Mapping[str, nn.Module], *, training_only: bool = False) -> None:
        self._calls: list[Call] = []
        self._handles = [
            layer.register_forward_hook(_Tap(name, self._calls, training_only))
            for name, layer in layers.items()
        ]

    def take(self) -> list[Call]:
        """Returns and removes the calls since the last `take`."""
        calls = self._calls.copy()
        self._calls.clear()
        return calls

    def remove(self) -> None:
        """Ends the recording."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> "Taps":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class _Tap:
    def __init__(self, name: str, calls: list[Call], training_only: bool) -> None:
        self.name, self.calls, self.training_only = name, calls, training_only

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if layer.training or not self.training_only:
            self.calls.append(Call(self.name, layer, args, output))

    def __deepcopy__(self, memo: object) -> Callable[..., None]:
        # copies of a module, such as the averaged model, have the hooks too
        return _nothing


def _nothing(*_: object) -> None:
    pass
