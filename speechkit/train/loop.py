"""The loop that carries out a training run, to be read from top to bottom."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.checkpoint import save
from speechkit.data import Batch, Utterance, UtteranceDataset, read_manifest
from speechkit.errors import TrainingError
from speechkit.evaluation import evaluate
from speechkit.frontend import fit_statistics
from speechkit.journal import Journal, Silence
from speechkit.memory import keep_freed_memory
from speechkit.models import Output, build
from speechkit.nn import sync_batch_norms
from speechkit.ops.native import sum_type
from speechkit.optim import parameter_groups
from speechkit.plugins import registry
from speechkit.processes import FSDP, launch, mean, one_line_failures, warn, weight, whole
from speechkit.tasks import Recognition, Targets, Task, task_of
from speechkit.train.batches import (
    batch_features,
    endless_batches,
    run_augmentations,
    spread_audio,
    training_utterances,
)
from speechkit.train.preflight import built, check_targets
from speechkit.train.resume import (
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
from speechkit.train.run import Run
from speechkit.train.starting_weights import start_from


def fit(run: Run, out: Path | str, resume: bool = False, device: str = "auto") -> dict[str, float]:
    """Trains a model into the folder `out` and returns the figures of the best on the dev set.

    `out/best` and `out/last` are model folders, the latter with what resuming needs;
    `out/run.json` is the resolved run and `out/metrics.jsonl` its figures. Interrupted runs go on
    with `resume`, bit by bit as if they had not been (same machine, thread and process count).
    """
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
    audio_augment, feature_augment = run_augmentations(run)

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
    untold = torch.tensor([utterance.untold for utterance in train])
    if run.init is not None and not resume:
        start_from(model, run.init)
    elif not resume:
        fit_statistics(model.frontend, spread_audio(dataset))

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
    stream = endless_batches(dataset, run, loop, fabric)

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
                features = batch_features(model, batch, feature_augment, run.seed, loop.epoch)
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
    check_targets(train, dev, task, _target(task, methods), loss_of, model)
    run_augmentations(run)
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
