"""Training: what a run is, and the loop that carries it out, to be read from top to bottom."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.checkpoint import AnyNet, load, save
from speechkit.component import Spec
from speechkit.data import (
    Batch,
    Utterance,
    UtteranceDataset,
    apply,
    are_shards,
    batches,
    bucket_batches,
    read_manifest,
    read_shards,
    share,
    utterance_generator,
    windows,
)
from speechkit.errors import ConfigError, TrainingError
from speechkit.evaluation import evaluate
from speechkit.frontend import fit_statistics
from speechkit.journal import Journal, Silence
from speechkit.memory import keep_freed_memory
from speechkit.models import Model, Output, build
from speechkit.models.net import Name
from speechkit.nn import Chunk, sync_batch_norms
from speechkit.ops.native import sum_type
from speechkit.optim import parameter_groups
from speechkit.plugins import registry
from speechkit.processes import (
    DDP,
    FSDP,
    STRATEGIES,
    launch,
    mean,
    one_line_failures,
    weight,
    whole,
)
from speechkit.resume import (
    BEST,
    LAST,
    Loop,
    open_folder,
    read_training,
    read_weights,
    write_run,
    write_training,
)
from speechkit.tasks import Recognition, Task, task_of


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the utterances are and how they are grouped.

    `train` may be several manifests; one named twice counts twice in each epoch. A folder of shards
    is one too, and a pattern of them; their utterances are shuffled `window` at a time.
    A batch holds at most `batch_size` utterances and `batch_seconds` seconds, padding included, for
    each process. `buckets` groups of similar durations keep padding low; with 1, batches are drawn
    at random, which batch norm prefers where durations tell classes or speakers apart. Training
    utterances longer than `max_duration_s` are left out; `cache` keeps the rest decoded.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    train: Path | tuple[Path, ...]
    dev: Path
    batch_size: int | None = 32
    batch_seconds: float | None = None
    buckets: int = 20
    window: int = 20000
    max_duration_s: float = 16.7
    workers: int = 0
    cache: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides what a training run does; a recipe is a function that returns one.

    `method` names training methods (distillation). `init` is a model folder to start from: its
    front end, stem and encoder, and its head where the labels are the same. `accumulate` batches
    make one step. `clip_norm` bounds the gradient's norm. `ema` is the decay of the averaged
    weights, which are evaluated and saved; 0 for none. `precision` is Fabric's. `compile` has
    torch.compile make the net's kernels in place of speechkit's, which takes minutes. `devices`
    processes on each of `nodes` machines share every batch, with the whole model in each
    (`strategy` ddp) or spread over them (fsdp).
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    model: AnyNet
    data: Data
    steps: int
    optimizer: Name = "novograd:lr=0.02,beta1=0.95,beta2=0.5,weight_decay=0.001"
    schedule: Name = "cosine"
    loss: Name | None = None
    augment: tuple[Name, ...] = ()
    method: tuple[Name, ...] = ()
    init: Path | None = None
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
        counts = ("steps", "accumulate", "devices", "nodes")
        for name in (*counts, "eval_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: give at least 1")
        if self.strategy not in STRATEGIES:
            raise ConfigError(f"strategy={self.strategy}: give {' or '.join(STRATEGIES)}")


def fit(run: Run, out: Path | str, resume: bool = False, device: str = "auto") -> dict[str, float]:
    """Trains a model into the folder `out` and returns the figures of the best on the dev set.

    `out/best` and `out/last` are model folders, the latter with what resuming needs;
    `out/run.json` is the resolved run and `out/metrics.jsonl` its figures. Interrupted runs go on
    with `resume`, bit by bit as if they had not been (same machine, thread and process count).
    """
    fabric = launch(device, run.precision, run.strategy, run.devices, run.nodes)
    with one_line_failures(fabric):
        return _fit(run, Path(out), resume, fabric)


def _fit(run: Run, out: Path, resume: bool, fabric: Any) -> dict[str, float]:
    # the first process evaluates, writes and tells the hooks; each reads, and draws its own numbers
    first, many = fabric.is_global_zero, fabric.world_size > 1
    hook = registry().hook
    with fabric.rank_zero_first():
        resume = open_folder(out, run, resume)
    keep_freed_memory()
    torch.manual_seed(run.seed + fabric.global_rank)

    # data
    train = training_utterances(run.data)
    dev = read_manifest(run.data.dev)
    audio_augment, feature_augment = _augmentations(run)

    # model, and statistics of the data where its front end wants them and `init` brings none
    model = build(run.model, run.seed)
    task = task_of(model)
    methods = [registry().build("method", spec) for spec in run.method]
    target = task.encode
    if any(getattr(method, "needs_no_text", False) for method in methods):
        target = partial(_target, task)
    dataset = UtteranceDataset(
        train,
        target,
        sample_rate=model.sample_rate,
        augmentations=audio_augment,
        seed=run.seed,
        cache=run.data.cache,
    )
    for utterance in train:
        target(utterance)
    for utterance in dev:
        task.encode(utterance)
    untold = torch.tensor([utterance.untold for utterance in train])
    if run.init is not None and not resume:
        _start_from(model, run.init)
    elif not resume:
        fit_statistics(model.frontend, _some_audio(dataset))

    # loss, and what methods need beforehand
    loss_of = registry().build("loss", run.loss or task.loss)
    with fabric.rank_zero_first():
        for method in methods:
            method.start(model, dataset)
    views = max((getattr(method, "views", 1) for method in methods), default=1)
    learners = nn.ModuleList(method for method in methods if isinstance(method, nn.Module))

    # averaged weights, which are also the whole ones where FSDP spreads those of the model
    apart = run.ema > 0 or (many and run.strategy == FSDP)
    average = deepcopy(model).requires_grad_(False).to(fabric.device) if apart else model
    if many:
        sync_batch_norms(model)
    if resume:
        read_weights(out / LAST, model, average, learners)
    if run.compile:
        # Fabric wraps methods alone
        compiled = torch.compile(type(model).score, dynamic=True)
        model.score = MethodType(compiled, model)  # type: ignore[method-assign]
    wrapped = fabric.setup_module(model.to(fabric.device))
    wrapped.mark_forward_method("score")
    methods = [_set_up(method, fabric) for method in methods]

    # optimiser and schedule
    optimizer = registry().build(
        "optimizer", run.optimizer, parameter_groups(nn.ModuleList([model, learners]))
    )
    schedule = registry().build("schedule", run.schedule, run.steps)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    loop = read_training(out / LAST, fabric, optimizer) if resume else Loop()
    optimizer = fabric.setup_optimizers(optimizer)

    if first:
        write_run(out, run)
        hook.speechkit_run_start(run=run)
    stream = _endless(dataset, run, loop, fabric)
    with Journal(out, run.steps, loop.step) if first else Silence() as journal:
        while loop.step < run.steps:
            # one optimiser step over `accumulate` batches
            wrapped.train()
            factor = schedule(loop.step)
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = lr * factor
            total = 0.0
            for index in range(run.accumulate):
                batch = next(stream).repeated(views)
                features = _features(model, batch, feature_augment, run.seed, loop.epoch)
                with fabric.no_backward_sync(wrapped, enabled=index + 1 < run.accumulate):
                    # Fabric's own autocast is for `forward` alone
                    with fabric.autocast():
                        output = wrapped.score(features)
                    scores = output.scores.to(sum_type(output.scores.dtype))
                    losses = loss_of(scores, output.lengths, *task.targets(batch, output))
                    losses = losses.masked_fill(untold[batch.indices].to(losses.device), 0.0)
                    for method in methods:
                        losses = losses + method.extra_loss(batch, Output(scores, output.lengths))
                    loss = losses.mean() * weight(fabric, len(losses)) / run.accumulate
                    _check_finite(loss, loop.step, batch)
                    fabric.backward(loss)
                total += loss.item()
            if run.clip_norm is not None:
                # where fp16 overflows, its scaler leaves the step out
                fabric.clip_gradients(
                    wrapped, optimizer, max_norm=run.clip_norm, error_if_nonfinite=False
                )
            optimizer.step()
            optimizer.zero_grad()
            loop.step += 1
            if apart:
                _average(average, model, run.ema, loop.step)
            journal.advance(loop.step, total)
            if first:
                hook.speechkit_run_step(run=run, step=loop.step, loss=total)

            # once in a while: log, evaluate, save
            last = loop.step == run.steps
            if loop.step % run.log_every == 0 or last:
                lr = optimizer.param_groups[0]["lr"]
                journal.log(loop.step, loss=mean(fabric, total), lr=lr, epoch=loop.epoch)
            if first and (loop.step % run.eval_every == 0 or last):
                marks = evaluate(average, dev, workers=run.data.workers)
                journal.log(loop.step, **marks)
                hook.speechkit_run_eval(run=run, metrics=marks)
                if task.error(marks) <= loop.best:
                    loop.best, loop.marks = task.error(marks), marks
                    save(average, out / BEST)
            if loop.step % run.save_every == 0 or last:
                write_training(out / LAST, fabric, model, average, learners, optimizer, loop)
    if first:
        hook.speechkit_run_end(run=run)
    loop.marks = fabric.broadcast(loop.marks)
    return loop.marks


def _target(task: Task, utterance: Utterance) -> Tensor:
    """The task's; nothing where an utterance without text counts for methods alone."""
    untold = utterance.untold and isinstance(task, Recognition)
    return torch.empty(0, dtype=torch.int64) if untold else task.encode(utterance)


def _set_up(method: Any, fabric: Any) -> Any:
    """A method as it is, or with its weights where the model's are."""
    if not isinstance(method, nn.Module):
        return method
    wrapped = fabric.setup_module(method.to(fabric.device))
    wrapped.mark_forward_method("extra_loss")
    return wrapped


def training_utterances(data: Data) -> list[Utterance]:
    """Those of all training manifests and shards that are short enough."""
    paths = (data.train,) if isinstance(data.train, Path) else data.train
    found = [
        u for path in paths for u in (read_shards if are_shards(path) else read_manifest)(path)
    ]
    if train := [u for u in found if u.duration_s <= data.max_duration_s]:
        return train
    raise TrainingError(
        f"every utterance of {', '.join(map(str, paths)) or 'no manifest'} is longer than "
        f"max_duration_s={data.max_duration_s:g}; raise it"
    )


def _endless(dataset: UtteranceDataset, run: Run, loop: Loop, fabric: Any) -> Iterator[Batch]:
    """This process's share of the batches from where the loop is, epoch after epoch, counted in
    `loop` as they are given."""
    data, processes = run.data, fabric.world_size
    durations_s = [utterance.duration_s for utterance in dataset.utterances]
    while True:
        plan = [
            [window[row] for row in rows]
            for window in windows(dataset.utterances, data.window, run.seed, loop.epoch)
            for rows in bucket_batches(
                [durations_s[index] for index in window],
                batch_size=data.batch_size and data.batch_size * processes,
                batch_seconds=data.batch_seconds and data.batch_seconds * processes,
                seed=run.seed,
                epoch=loop.epoch,
                buckets=data.buckets,
            )
        ]
        dataset.epoch = loop.epoch
        mine = share(plan, fabric.global_rank, processes)
        for batch in batches(dataset, mine, data.workers, start=loop.batch):
            loop.batch += 1
            yield batch
        loop.epoch, loop.batch = loop.epoch + 1, 0


def _features(model: Model, batch: Batch, augmentations: list[Any], seed: int, epoch: int) -> Chunk:
    """The batch's features, each row augmented by its own generator."""
    device = next(model.parameters()).device
    with torch.no_grad():
        c = model.features(batch.audio.to(device), batch.lengths.to(device))
    if not augmentations:
        return c
    rows = []
    views: Counter[int] = Counter()
    for row, length, index in zip(c.x.cpu(), c.lengths.tolist(), batch.indices, strict=True):
        generator = utterance_generator(seed, epoch, index, "features", views[index])
        views[index] += 1
        changed, frames = apply(augmentations, row, length, generator)
        rows.append(changed[:, :frames].T)
    x = pad_sequence(rows, batch_first=True).transpose(1, 2).to(device)
    return Chunk.of(x, torch.tensor([len(row) for row in rows], device=device))


def _augmentations(run: Run) -> tuple[list[Any], list[Any]]:
    """The run's augmentations of audio and of features, told the sample rate if they ask for it."""
    built: dict[str, list[Any]] = {"audio": [], "features": []}
    for spec in map(Spec.parse, run.augment):
        factory = registry().find("augmentation", spec.name).factory()
        asks = "sample_rate" in signature(factory).parameters
        rate = {"sample_rate": run.model.sample_rate} if asks else {}
        augmentation = registry().build("augmentation", spec, **rate)
        built[augmentation.domain].append(augmentation)
    return built["audio"], built["features"]


def _start_from(model: Model, folder: Path) -> None:
    """Gives the model the weights of the one in `folder`, its head's only for the same labels."""
    other = load(folder)
    same = other.labels == model.labels
    known, own = (
        {name: x for name, x in m.state_dict().items() if same or not name.startswith("head.")}
        for m in (other, model)
    )
    for name in sorted({*known, *own}):
        there, here = (list(x[name].shape) if name in x else "absent" for x in (known, own))
        if there != here:
            raise TrainingError(
                f"init={folder}: {name} is {there} there and {here} in this run's model; "
                "give both the same net and front end"
            )
    model.load_state_dict(known, strict=False)


def _some_audio(dataset: UtteranceDataset, most: int = 200) -> Iterator[Tensor]:
    """Audio `[N]` of utterances spread over the training set, unaugmented."""
    every = max(1, len(dataset) // most)
    for index in range(0, len(dataset), every):
        yield dataset.audio(index)


def _average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """average ← d · average + (1 − d) · model, with d rising to `decay` over the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(whole(new), 1 - decay)
        else:
            old.copy_(new)


def _check_finite(loss: Tensor, step: int, batch: Batch) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(
            f"loss is {loss.item()} at step {step}; the batch holds {', '.join(batch.names)}; "
            "look at these files, lower the learning rate or set clip_norm"
        )
