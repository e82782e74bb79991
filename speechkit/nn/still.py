"""A context in which a net changes no buffers."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as usual, but its buffers do not change.

    In training a norm normalises by its batch, and its running statistics and count of batches do
    not change.
    """
    # changes go to copies, since a graph from before the block may still use the buffers
    own = [(module, dict(module._buffers)) for module in model.modules()]
    copies = {id(buffer): buffer.clone() for buffer in model.buffers()}
    for module, buffers in own:
        for name, buffer in buffers.items():
            if buffer is not None:
                module._buffers[name] = copies[id(buffer)]
    try:
        yield
    finally:
        for module, buffers in own:
            module._buffers.update(buffers)
