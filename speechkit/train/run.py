"""The settings of a training run: model, data, optimizer and everything else."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field

from speechkit.checkpoint import AnyNet
from speechkit.component import Spec
from speechkit.config import Config, check_component, check_range
from speechkit.errors import ConfigError
from speechkit.io.folders import find, read_config
from speechkit.limits import MAX_COUNT, MAX_PROCESSES
from speechkit.models.net import Name
from speechkit.train.distributed import DDP, STRATEGIES, warn

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""The precisions of Fabric that keep weights and sums in float32."""


@dataclass(frozen=True, kw_only=True)
class Data(Config):
    """The utterances of a run and how they are grouped.

    `train` may be several manifests; one that is given twice counts twice in each epoch. A folder
    of shards, or a pattern such as `train-*.tar`, counts as a manifest; utterances of shards are
    shuffled `window` at a time. A batch holds at most `batch_size` utterances and `batch_seconds`
    seconds, padding included, for each process. `buckets` groups of similar durations reduce
    padding. With 1, batches are random, which is better for batch norm where durations depend on
    the class or speaker. Training utterances longer than `max_duration_s` are left out. `cache`
    keeps decoded audio in memory.
    """

    train: Path | tuple[Path, ...]
    dev: Path
    batch_size: int | None = 32
    batch_seconds: float | None = None
    buckets: int = 20
    window: int = 20000
    max_duration_s: float = 16.7
    workers: int = 0
    cache: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("buckets", "window"):
            check_range(name, getattr(self, name), 1, MAX_COUNT)
        if self.batch_size is not None:
            check_range("batch_size", self.batch_size, 1, MAX_COUNT)
        if self.batch_seconds is not None and self.batch_seconds <= 0:
            raise ConfigError(f"batch_seconds={self.batch_seconds:g}: give a positive number")
        if self.batch_size is self.batch_seconds is None:
            raise ConfigError("a batch has no limit; give batch_size or batch_seconds")
        check_range("workers", self.workers, 0, MAX_PROCESSES)


@dataclass(frozen=True, kw_only=True)
class Run(Config):
    """All settings of a training run; a recipe is a function that returns one.

    `method` lists training methods, see `method.py`. `start_from` is a model folder whose weights
    the run starts with: front end, stem and encoder, and the head if the labels are the same.
    `accumulate` batches make one step. `clip_norm` bounds the gradient's norm. `ema` is the decay
    of the averaged weights, which are evaluated and saved; 0 for none. `precision` is Fabric's.
    `compile` uses torch.compile instead of speechkit's kernels, which takes minutes at the start.
    `devices` processes on each of `nodes` machines share every batch. Each holds the full model
    (`strategy` ddp) or a shard of it (fsdp).
    """

    model: AnyNet
    data: Data
    steps: int
    optimizer: Name = "novograd:lr=0.02,beta1=0.95,beta2=0.5,weight_decay=0.001"
    schedule: Name = "cosine"
    loss: Name | None = None
    augment: tuple[Name, ...] = ()
    method: tuple[Name, ...] = ()
    # runs of earlier versions call it init
    start_from: Annotated[
        Path | None, Field(validation_alias=AliasChoices("start_from", "init"))
    ] = None
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float = 0.0
    precision: str = "32-true"
    compile: bool = False
    devices: int = 1
    nodes: int = 1
    strategy: str = DDP
    eval_every: int = 500
    save_every: int = 500
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", Spec.parse(self.optimizer))
        object.__setattr__(self, "schedule", Spec.parse(self.schedule))
        for kind in ("augment", "method"):
            object.__setattr__(self, kind, tuple(Spec.parse(name) for name in getattr(self, kind)))
        if self.loss is not None:
            object.__setattr__(self, "loss", Spec.parse(self.loss))
        super().__post_init__()
        for spec in self.augment:
            check_component("augmentation", Spec.parse(spec))
        for name in ("steps", "accumulate", "eval_every", "save_every", "log_every"):
            check_range(name, getattr(self, name), 1, MAX_COUNT)
        for name in ("devices", "nodes"):
            check_range(name, getattr(self, name), 1, MAX_PROCESSES)
        check_range("ema", self.ema, 0, 1)
        # a negative bound would reverse the gradient
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError(f"clip_norm={self.clip_norm:g}: give a positive number, or null")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.precision}: give {', '.join(PRECISIONS)}")
        if self.strategy not in STRATEGIES:
            raise ConfigError(f"strategy={self.strategy}: give {' or '.join(STRATEGIES)}")


def assigned(assignments: Iterable[str]) -> list[str]:
    """Assignments of `--set` for a run.

    `model=FOLDER` becomes the config of the model in that folder. The former name `init` becomes
    `start_from`, with a warning.
    """
    found = list(assignments)
    for index, assignment in enumerate(found):
        name, _, value = assignment.partition("=")
        if name == "init":
            warn("--set init= is now --set start_from=; type that")
            found[index] = f"start_from={value}"
        elif name == "model" and value and not value.lstrip().startswith("{"):
            found[index] = f"model={json.dumps(read_config(find(value))['config'])}"
    return found
