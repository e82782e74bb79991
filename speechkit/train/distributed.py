"""The processes of a run: one, or several that share every batch."""

import atexit
import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from speechkit.errors import ComponentError, MissingExtraError, TrainingError

log = logging.getLogger(__name__)

DDP, FSDP = STRATEGIES = ("ddp", "fsdp")


def launch(device: str, precision: str, strategy: str, devices: int, nodes: int) -> Any:
    """The Lightning Fabric of `devices` processes on each of `nodes` machines.

    Processes started by `torchrun` or SLURM are used; otherwise Fabric starts them.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise MissingExtraError("lightning-fabric", "train") from error
    accelerator, _, index = device.partition(":")
    many = devices * nodes > 1
    started = int(os.environ.get("WORLD_SIZE", devices * nodes))
    if started != devices * nodes:
        raise TrainingError(
            f"{started} processes were started for devices={devices}, nodes={nodes}; "
            f"type --set devices={started}, or as many as one machine has"
        )
    if index and many:
        raise TrainingError(f"device {device!r} is a single one; leave out :{index}")
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=[int(index)] if index else devices,
            num_nodes=nodes,
            strategy=_strategy(strategy, devices * nodes) if many else "auto",
            precision=precision,  # type: ignore[arg-type]
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise TrainingError(f"device {device!r}, precision {precision!r}: {error}") from error
    fabric.launch()
    if many:
        atexit.register(_part)
    return fabric


def _part() -> None:
    """Closes the connection to the other processes; an open one may abort Python at exit."""
    if torch.distributed.is_initialized():
        # sharded modules hold on to threads
        gc.collect()
        torch.distributed.destroy_process_group()


def warn(message: str) -> None:
    """Logs a warning in the first process of a run only."""
    if is_first():
        log.warning(message)


def is_first() -> bool:
    """True on rank 0, by the variables that torchrun, SLURM or Fabric set."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


@contextmanager
def one_line_failures(fabric: Any) -> Iterator[None]:
    """Turns a lost connection into a TrainingError; the process that failed reports the cause."""
    try:
        yield
    except (RuntimeError, ComponentError) as error:
        # a method that waits for other processes may be where it is noticed
        cause = error.__cause__ if isinstance(error, ComponentError) else error
        if fabric.world_size == 1 or not _is_of_the_connection(cause):
            raise
        raise TrainingError(
            f"process {fabric.global_rank} of {fabric.world_size} lost another one; "
            "see the error of that one, then go on with --resume"
        ) from error


def _strategy(name: str, processes: int) -> Any:
    if name == DDP:
        return DDP
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    # FSDP2, because only it lets an optimiser compute each tensor's norm
    return ModelParallelStrategy(_spread, data_parallel_size=processes, tensor_parallel_size=1)


def _spread(model: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    fully_shard(model, mesh=mesh["data_parallel"])
    # `features` and `score` are calls of the model, `extra_loss` is one of methods with weights
    for call in ("features", "score", "extra_loss"):
        if hasattr(model, call):
            register_fsdp_forward_method(model, call)
    return model


def _is_of_the_connection(error: BaseException | None) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()
