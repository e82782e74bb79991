"""Names of blocks in a model's state dict, and the tensors to store under them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from speechkit.errors import CheckpointError, ConfigError
from speechkit.models import Block, Model, Net, build

AnyNet = TypeVar("AnyNet", bound=Net)


class Tensors:
    """The tensors of a file, renamed one by one to the names in a model's state dict."""

    def __init__(self, given: Mapping[str, Tensor], where: str) -> None:
        self.left, self.where = dict(given), where
        self.taken: dict[str, Tensor] = {}

    def take(self, name: str, target: str, shape: tuple[int, ...]) -> None:
        """Moves one tensor and checks its shape."""
        self.taken[target] = self.pop(name, shape)

    def take_pointwise(self, name: str, target: str, shape: tuple[int, int]) -> None:
        """Moves the weight of a 1×1 convolution, from `[C', C, 1]` to `[C', C]`."""
        self.taken[target] = self.pop(name, (*shape, 1)).squeeze(2)

    def take_count(self, name: str, target: str) -> None:
        """Moves an integer, 0 if the file has none."""
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
        """Raises CheckpointError if a tensor was not used."""
        for name in self.left:
            raise CheckpointError(f"{self.where} hold {name[:80]!r}, unknown to their config")

    def model(self, config: Net) -> Model:
        """The model with the tensors that were taken."""
        model = build(config)
        own = model.state_dict()
        # the front end keeps its computed tables where the file has none
        missing = {name: value for name, value in own.items() if name.startswith("frontend.")}
        model.load_state_dict({**missing, **self.taken})
        return model.eval()


def block_name(index: int) -> str:
    """The module name of block `index` of a table; the first one is the stem."""
    return f"encoder.{index - 1}" if index else "stem"


def body_name(index: int, block: Block, repeat: int) -> str:
    """The module name of sub-block `repeat` of a block; activations are between sub-blocks."""
    return f"{block_name(index)}.{'sum.body' if block.residual else 'body'}.{2 * repeat}"


def with_size(config: AnyNet) -> AnyNet:
    """The config with the paper's name for its blocks, if they are those of a paper."""
    inner = [block for block in config.blocks if block.residual] or list(config.blocks)
    name = f"{len(inner)}x{inner[0].repeat}"
    if config.kind != "quartznet":
        name += f"x{inner[0].channels}"
    try:
        named = replace(config, size=name, blocks=())
    except ConfigError:
        return config
    return named if named.rows() == config.rows() else config
