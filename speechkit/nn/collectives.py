"""Values shared or gathered between the processes of a run."""

from typing import Any

import torch
from torch import Tensor


def weight(fabric: Any, rows: int) -> float:
    """What the mean loss of this process's `rows` is multiplied by, for gradients that are averaged
    over processes to be those of the mean over all rows: rows · processes / all rows."""
    if fabric.world_size == 1:
        return 1.0
    everyone = fabric.all_reduce(torch.tensor(float(rows), device=fabric.device), reduce_op="sum")
    share: float = rows * fabric.world_size / max(float(everyone), 1.0)
    return share


def mean(fabric: Any, value: float) -> float:
    """The mean of what each process has."""
    if fabric.world_size == 1:
        return value
    x = torch.tensor(value, dtype=torch.float64, device=fabric.device)
    return float(fabric.all_reduce(x, reduce_op="mean"))


def gathered(x: Tensor) -> Tensor:
    """`[P, …]` of each process's `x`."""
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def whole(x: Tensor) -> Tensor:
    """A tensor that FSDP has spread over the processes, in one; any other as it is."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def spread_as(x: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, of a parameter's shape or of one number, spread as the parameter is."""
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

    if not isinstance(parameter, DTensor):
        return x
    placements = parameter.placements if x.shape == parameter.shape else [Replicate()]
    return distribute_tensor(x.to(parameter.device), parameter.device_mesh, placements)
