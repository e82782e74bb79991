"""Collective operations between the processes of a run."""

from typing import Any

import torch
from torch import Tensor


def weight(fabric: Any, rows: int) -> float:
    """rows · processes / all rows: the factor for the mean loss of this process's `rows`.

    With it, gradients averaged over processes are those of the mean over all rows.
    """
    if fabric.world_size == 1:
        return 1.0
    everyone = fabric.all_reduce(torch.tensor(float(rows), device=fabric.device), reduce_op="sum")
    share: float = rows * fabric.world_size / max(float(everyone), 1.0)
    return share


def mean(fabric: Any, value: float) -> float:
    """The mean of `value` over all processes."""
    if fabric.world_size == 1:
        return value
    x = torch.tensor(value, dtype=torch.float64, device=fabric.device)
    return float(fabric.all_reduce(x, reduce_op="mean"))


def gather(x: Tensor) -> Tensor:
    """The `x` of all processes, `[P, …]`."""
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def full_tensor(x: Tensor) -> Tensor:
    """The full tensor of one that FSDP sharded; any other tensor is returned unchanged."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def spread_as(x: Tensor, parameter: Tensor) -> Tensor:
    """Shards a full tensor, of a parameter's shape or with one element, like the parameter."""
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

    if not isinstance(parameter, DTensor):
        return x
    placements = parameter.placements if x.shape == parameter.shape else [Replicate()]
    return distribute_tensor(x.to(parameter.device), parameter.device_mesh, placements)
