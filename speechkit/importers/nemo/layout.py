"""How blocks are named in a model's state dict, and tensors on their way there."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from speechkit.errors import CheckpointError, ConfigError
from speechkit.models import Block, Model, Net, build

AnyNet = TypeVar("AnyNet", bound=Net)


class Tensors:
    """The tensors of a file, taken one by one under the names that a model has for them."""

    def __init__(self, given: Mapping[str, Tensor], where: str) -> None:
        self.left, self.where = dict(given), where
        self.taken: dict[str, Tensor] = {}

    def take(self, name: str, target: str, shape: tuple[int, ...]) -> None:
        """Moves one tensor of that shape."""
        self.taken[target] = self.pop(name, shape)

    def take_pointwise(self, name: str, target: str, shape: tuple[int, int]) -> None:
        """Moves the weight of a 1×1 convolution, `[C', C, 1]` there and `[C', C]` here."""
        self.taken[target] = self.pop(name, (*shape, 1)).squeeze(2)

    def take_count(self, name: str, target: str) -> None:
        """Moves a whole number, 0 where the file has none."""
        value = self.left.pop(name, torch.tensor(0))
        if value.numel() != 1 or value.is_complex():
            raise CheckpointError(f"{self.where}: {name!r} is not one number")
        self.taken[target] = value.reshape(()).to(torch.int64)

    def pop(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor as float32."""
        if name not in self.left:
            raise CheckpointError(f"{self.where} lack {name!r}, which the config asks for")
        value = self.left.pop(name)
        if tuple(value.shape) != shape or not value.is_floating_point():
            raise CheckpointError(
                f"{self.where}: {name!r} is {value.dtype} {list(value.shape)}, "
                f"the config asks for floating point {list(shape)}"
            )
        value = value.to(torch.float32)
        if not value.isfinite().all():
            raise CheckpointError(
                f"{self.where}: {name!r} holds NaN or infinity; take another model"
            )
        return value

    def done(self) -> None:
        """Refuses tensors that nobody took."""
        for name in self.left:
            raise CheckpointError(f"{self.where} hold {name[:80]!r}, unknown to their config")

    def model(self, config: Net) -> Model:
        """The model that the taken tensors make."""
        model = build(config)
        own = model.state_dict()
        # what the front end stores is its own where the file brings no table
        missing = {name: value for name, value in own.items() if name.startswith("frontend.")}
        model.load_state_dict({**missing, **self.taken})
        return model.eval()


def block_name(index: int) -> str:
    """Where block `index` of a table is in a model: the first one is the stem."""
    return f"encoder.{index - 1}" if index else "stem"


def body_name(index: int, block: Block, repeat: int) -> str:
    """Where sub-block `repeat` of a block is: activations lie between the sub-blocks."""
    return f"{block_name(index)}.{'sum.body' if block.residual else 'body'}.{2 * repeat}"


def with_size(config: AnyNet) -> AnyNet:
    """The config under the paper's name for its blocks, where they are a paper's."""
    inner = [block for block in config.blocks if block.residual] or list(config.blocks)
    name = f"{len(inner)}x{inner[0].repeat}"
    if config.kind != "quartznet":
        name += f"x{inner[0].channels}"
    try:
        named = replace(config, size=name, blocks=())
    except ConfigError:
        return config
    return named if named.rows() == config.rows() else config
