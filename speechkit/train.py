"""Training: the loop that carries a run out, to be read from top to bottom."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from inspect import signature
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.checkpoint import save
from speechkit.component import Spec
from speechkit.config import check_processes
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
from speechkit.errors import TrainingError
from speechkit.evaluation import evaluate
from speechkit.frontend import fit_statistics
from speechkit.journal import Journal, Silence
from speechkit.memory import keep_freed_memory
from speechkit.models import Model, Output, build
from speechkit.nn import Chunk, sync_batch_norms
from speechkit.ops.native import sum_type
from speechkit.optim import parameter_groups
from speechkit.plugins import registry
from speechkit.preflight import built, check_augmented, check_targets
from speechkit.processes import (
    FSDP,
    launch,
    mean,
    one_line_failures,
    warn,
    weight,
    whole,
)
from speechkit.resume import (
    BEST,
    LAST,
    PLAN,
    Loop,
    changed_settings,
    open_folder,
    read_run,
    read_training,
    read_weights,
    write_loop,
    write_run,
    write_training,
)
from speechkit.run import Data, Run
from speechkit.starting_weights import start_from
from speechkit.tasks import Recognition, Targets, Task, task_of

__all__ = ["Data", "Run", "dry_run", "fit"]


def fit(run: Run, out: Path | str, resume: bool = False, device: str = "auto") -> dict[str, float]:
    """Trains a model into the folder `out` and returns the figures of the best on the dev set.

    `out/best` and `out/last` are model folders, the latter with what resuming needs;
    `out/run.json` is the resolved run and `out/metrics.jsonl` its figures. Interrupted runs go on
    with `resume`, bit by bit as if they had not been (same machine, thread and process count).
    """
    check_processes("devices", run.devices)
    fabric = launch(device, run.precision, run.strategy, run.devices, run.nodes)
    out = Path(out)
    with one_line_failures(fabric), open_folder(out, resume, fabric) as started:
        return _fit(run, out, started, fabric)


def _fit(run: Run, out: Path, resume: bool, fabric: Any) -> dict[str, float]:
    # the first process evaluates, writes and tells the hooks; each reads, and draws its own numbers
    first, many = fabric.is_global_zero, fabric.world_size > 1
    hook = registry().hook
    before = read_run(out, Run) if resume else run
    changed = changed_settings(out, before, run)
    keep_freed_memory()
    torch.manual_seed(run.seed + fabric.global_rank)

    # data
    train = training_utterances(run.data)
    dev = read_manifest(run.data.dev)
    audio_augment, feature_augment = _augmentations(run)

    # model, and statistics of the data where its front end wants them and `init` brings none
    model = build(run.model, run.seed)
    task = task_of(model)
    methods = [built("method", spec) for spec in run.method]
    target = _target(task, methods)
    dataset = UtteranceDataset(
        train,
        target,
        sample_rate=model.sample_rate,
        augmentations=audio_augment,
        seed=run.seed,
        cache=run.data.cache,
    )
    loss_of = built("loss", run.loss or task.loss)
    check_targets(train, dev, task, target, loss_of, model)
    check_augmented(dataset, loss_of, model)
    untold = torch.tensor([utterance.untold for utterance in train])
    if run.init is not None and not resume:
        start_from(model, run.init)
    elif not resume:
        fit_statistics(model.frontend, _some_audio(dataset))

    # what methods need beforehand
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
    trained = nn.ModuleList([model, learners])
    optimizer = built("optimizer", run.optimizer, parameter_groups(trained))
    schedule = built("schedule", run.schedule, run.steps)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    loop = Loop()
    if resume:
        earlier = built("optimizer", before.optimizer, parameter_groups(trained))
        loop = read_training(out / LAST, fabric, optimizer, earlier)
        _go_on(loop, changed)
    optimizer = fabric.setup_optimizers(optimizer)

    if first:
        # a dev set that cannot be judged must not be met at the first evaluation
        evaluate(average, dev, workers=run.data.workers)
        write_run(out, run)
        hook.speechkit_run_start(run=run)
    stream = _endless(dataset, run, loop, fabric)

    def judge() -> None:
        """Evaluates, and keeps the best model; other processes wait at their next exchange."""
        if first:
            marks = evaluate(average, dev, workers=run.data.workers)
            journal.log(loop.step, **marks)
            hook.speechkit_run_eval(run=run, metrics=marks)
            if task.error(marks) <= loop.best:
                loop.best, loop.marks = task.error(marks), marks
                save(average, out / BEST)
            loop.judged = loop.step
            write_loop(out / LAST, loop)

    with Journal(out, run.steps, loop.step, loop.judged) if first else Silence() as journal:
        # a run that was stopped between a save and the end of the evaluation behind it
        if loop.judged < loop.step and _is_due(loop, run, run.eval_every):
            judge()
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
                    targets = task.targets(batch, output)
                    losses = loss_of(scores, output.lengths, *targets)
                    losses = losses.masked_fill(untold[batch.indices].to(losses.device), 0.0)
                    for method in methods:
                        losses = losses + method.extra_loss(batch, Output(scores, output.lengths))
                    losses = _that_count(losses, loss_of, output.lengths, targets)
                    # with no row left, 0 that still has a gradient for the other processes
                    loss = losses.mean() if len(losses) else 0 * scores.sum()
                    loss = loss * weight(fabric, len(losses)) / run.accumulate
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

            # once in a while: log, save, evaluate
            due = _is_due(loop, run, run.eval_every)
            if _is_due(loop, run, run.log_every):
                lr = optimizer.param_groups[0]["lr"]
                journal.log(loop.step, loss=mean(fabric, total), lr=lr, epoch=loop.epoch)
            if due or _is_due(loop, run, run.save_every):
                write_training(out / LAST, fabric, model, average, learners, optimizer, loop)
            if due:
                judge()
    if first:
        hook.speechkit_run_end(run=run)
    loop.marks = fabric.broadcast(loop.marks)
    return loop.marks


def dry_run(run: Run) -> dict[str, int]:
    """Everything that comes before the first step, with nothing written; the sizes of it all."""
    model = build(run.model, run.seed)
    task = task_of(model)
    train, dev = training_utterances(run.data), read_manifest(run.data.dev)
    methods = [built("method", spec) for spec in run.method]
    loss_of = built("loss", run.loss or task.loss)
    target = _target(task, methods)
    check_targets(train, dev, task, target, loss_of, model)
    audio_augment, _ = _augmentations(run)
    dataset = UtteranceDataset(
        train, target, sample_rate=model.sample_rate, augmentations=audio_augment, seed=run.seed
    )
    check_augmented(dataset, loss_of, model)
    built("optimizer", run.optimizer, parameter_groups(model))
    built("schedule", run.schedule, run.steps)
    if run.init is not None:
        start_from(model, run.init)
    evaluate(model, dev, workers=run.data.workers)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "train": len(train), "dev": len(dev)}


def _target(task: Task, methods: list[Any]) -> Callable[[Utterance], Tensor]:
    """The task's targets; none for utterances without text where a method takes them so."""
    if not any(getattr(method, "needs_no_text", False) for method in methods):
        return task.encode
    return partial(_target_or_none, task)


def _target_or_none(task: Task, utterance: Utterance) -> Tensor:
    untold = utterance.untold and isinstance(task, Recognition)
    return torch.empty(0, dtype=torch.int64) if untold else task.encode(utterance)


def _that_count(losses: Tensor, loss_of: Any, lengths: Tensor, targets: Targets) -> Tensor:
    """The losses of those rows whose targets are possible at all."""
    if not hasattr(loss_of, "possible"):
        return losses
    possible = loss_of.possible(lengths, *targets)
    return losses if possible.all() else losses[possible]


def _go_on(loop: Loop, changed: set[str]) -> None:
    """Tells what differs in a run that goes on, and what follows for where it is."""
    if changed & {*PLAN}:
        loop.batch = 0
    if "data.dev" in changed:
        loop.best = math.inf
    if changed:
        epoch = "; the epoch begins anew" if changed & {*PLAN} else ""
        best = "; the best model is chosen anew" if "data.dev" in changed else ""
        warn(f"going on at step {loop.step} with other {', '.join(sorted(changed))}{epoch}{best}")


def _is_due(loop: Loop, run: Run, every: int) -> bool:
    return loop.step % every == 0 or loop.step == run.steps


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
    train = [u for u in found if u.duration_s <= data.max_duration_s]
    if 0 < len(train) < len(found):
        left_out_s = sum(u.duration_s for u in found if u.duration_s > data.max_duration_s)
        warn(
            f"{len(found) - len(train)} of {len(found)} utterances, {left_out_s / 3600:.2g} hours, "
            f"are longer than max_duration_s={data.max_duration_s:g} and left out"
        )
    if train:
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
    found: dict[str, list[Any]] = {"audio": [], "features": []}
    for spec in map(Spec.parse, run.augment):
        factory = registry().find("augmentation", spec.name).factory()
        asks = "sample_rate" in signature(factory).parameters
        rate = {"sample_rate": run.model.sample_rate} if asks else {}
        augmentation = built("augmentation", spec, **rate)
        found[augmentation.domain].append(augmentation)
    return found["audio"], found["features"]


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
