"""A net that computes without keeping anything of what it reads."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Within it the model computes as usual and its buffers stay as they are.

    In training a norm normalises by its batch, and its running statistics and count of batches do
    not change.
    """
    # copies take the changes, so that a graph from before the block may still hold the buffers
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
