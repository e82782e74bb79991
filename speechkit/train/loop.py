"""The training loop."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.checkpoint import save
from speechkit.component import Spec
from speechkit.config import check_processes
from speechkit.data import Batch, Utterance, UtteranceDataset, collate, read_manifest
from speechkit.frontend import fit_statistics
from speechkit.models import Model, build
from speechkit.nn import Chunk, sync_batch_norms
from speechkit.nn.collectives import full_tensor, mean
from speechkit.plugins import calling, registry
from speechkit.tasks import Task, error_of, task_of
from speechkit.tasks.evaluation import evaluate
from speechkit.train.batches import (
    batch_features,
    endless_batches,
    run_augmentations,
    spread_audio,
    training_utterances,
)
from speechkit.train.distributed import DDP, FSDP, launch, one_line_failures, warn
from speechkit.train.journal import Journal, NullJournal
from speechkit.train.memory import keep_freed_memory
from speechkit.train.method import Method, overrides
from speechkit.train.optim import parameter_groups
from speechkit.train.preflight import (
    built,
    built_methods,
    check_augmented,
    check_joins,
    check_learns,
    check_loss,
    check_schedule,
    check_targets,
)
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
from speechkit.train.step import Gradients, Objective


def fit(run: Run, out: Path | str, resume: bool = False, device: str = "auto") -> dict[str, float]:
    """Trains a model into the folder `out` and returns the metrics of the best one on dev.

    `out/best` and `out/last` are model folders; `last` also has the state that resuming needs.
    `out/run.json` holds all settings of the run and `out/metrics.jsonl` its figures. With `resume`
    an interrupted run goes on. The result is then equal to the bit to that of an uninterrupted run
    (on the same machine, with the same numbers of threads and processes).
    """
    check_processes("devices", run.devices)
    fabric = launch(device, run.precision, run.strategy, run.devices, run.nodes)
    out = Path(out)
    with one_line_failures(fabric), open_folder(out, resume, fabric) as started:
        return _fit(run, out, started, fabric)


def _fit(run: Run, out: Path, resume: bool, fabric: Any) -> dict[str, float]:
    # only the first process evaluates, writes and calls the hooks; each has its own random numbers
    first, many = fabric.is_global_zero, fabric.world_size > 1
    hook = registry().hook
    before = read_run(out, Run) if resume else run
    changed = changed_settings(out, before, run)
    keep_freed_memory()
    torch.manual_seed(run.seed + fabric.global_rank)

    # data, model, starting weights and preparation of methods
    parts = _parts(run)
    model, task, methods, dataset = parts.model, parts.task, parts.methods, parts.dataset
    if not resume:
        _begin(model, run, dataset)
    with fabric.rank_zero_first():
        for method in methods:
            with calling(method.component, "start"):
                method.start(model, dataset)
            with calling(method.component, "prepare"):
                method.prepare(model, dataset)
    stateful_methods = nn.ModuleList(m for m in methods if isinstance(m, nn.Module))

    # averaged weights; with FSDP they also serve as the full copy of the sharded weights
    has_average = run.ema > 0 or (many and run.strategy == FSDP)
    average = deepcopy(model).requires_grad_(False).to(fabric.device) if has_average else model
    if many:
        sync_batch_norms(model)
        stateful_methods.load_state_dict(fabric.broadcast(stateful_methods.state_dict()))
    if resume:
        read_weights(out / LAST, model, average, stateful_methods)
    if run.compile:
        # Fabric can wrap a method, but not a plain function
        compiled = torch.compile(type(model).score, dynamic=True)
        model.score = MethodType(compiled, model)  # type: ignore[method-assign]
    wrapped = fabric.setup_module(model.to(fabric.device))
    wrapped.mark_forward_method("score")
    extra = [_set_up(method, fabric) for method in methods if overrides(method, "extra_loss")]
    stateful_methods.to(fabric.device)

    # optimiser and schedule
    groups = partial(_parameter_groups, model, methods)
    optimizer = built("optimizer", run.optimizer, groups())
    schedule = built("schedule", run.schedule, run.steps)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    loop = Loop()
    if resume:
        earlier = built("optimizer", before.optimizer, groups())
        loop = read_training(out / LAST, fabric, optimizer, earlier)
        _go_on(loop, changed)
    stepping = fabric.setup_optimizers(optimizer)

    if first:
        # a dev set that cannot be evaluated must fail now, not after many steps
        evaluate(average, parts.dev, workers=run.data.workers)
        write_run(out, run)
        hook.speechkit_run_start(run=run)
    stream = endless_batches(dataset, run, loop, fabric)
    views = max((method.views for method in methods), default=1)
    objective = Objective(task, parts.loss, parts.unlabeled, extra)
    gradients = Gradients(fabric, model, wrapped, optimizer, objective, methods, run.accumulate)

    def draw() -> tuple[Batch, Callable[[], Chunk]]:
        batch = next(stream).repeated(views)
        return batch, partial(
            batch_features, model, batch, parts.feature_augment, run.seed, loop.epoch
        )

    def judge() -> None:
        """Evaluates, and saves the best model; other processes wait at the next collective."""
        if first:
            metrics = evaluate(average, parts.dev, workers=run.data.workers)
            journal.log(loop.step, **metrics)
            hook.speechkit_run_eval(run=run, metrics=metrics)
            error = error_of(task, metrics)
            if error <= loop.best:
                loop.best, loop.metrics = error, metrics
                save(average, out / BEST)
            loop.judged = loop.step
            write_loop(out / LAST, loop)

    with Journal(out, run.steps, loop.step, loop.judged) if first else NullJournal() as journal:
        # the run was stopped between a save and the end of the evaluation after it
        if loop.judged < loop.step and _is_due(loop, run, run.eval_every):
            judge()
        while loop.step < run.steps:
            wrapped.train()
            factor = schedule(loop.step)
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = lr * factor
            step = loop.step + 1
            total = gradients.compute(draw, step)

            _update(run, fabric, model, wrapped, stepping, methods, step)
            loop.step = step
            if has_average:
                _average(average, model, run.ema, step)
                for method in methods:
                    with calling(method.component, "after_average"):
                        method.after_average(average, step)
            journal.advance(step, total)
            if first:
                hook.speechkit_run_step(run=run, step=step, loss=total)

            # log, save and evaluate at their intervals
            due = _is_due(loop, run, run.eval_every)
            if _is_due(loop, run, run.log_every):
                lr = optimizer.param_groups[0]["lr"]
                journal.log(step, loss=mean(fabric, total), lr=lr, epoch=loop.epoch)
            if due or _is_due(loop, run, run.save_every):
                write_training(out / LAST, fabric, model, average, stateful_methods, stepping, loop)
            if due:
                judge()
    if first:
        hook.speechkit_run_end(run=run)
    loop.metrics = fabric.broadcast(loop.metrics)
    return loop.metrics


def _update(
    run: Run,
    fabric: Any,
    model: Model,
    wrapped: Any,
    stepping: Any,
    methods: Sequence[Method],
    step: int,
) -> None:
    """The optimizer's step from the gradients, with what methods do before and after it."""
    # clipping removes fp16's loss scale, otherwise it is removed here; after an overflow the scaler
    # skips the optimizer's step
    optimizer = stepping.optimizer
    if run.clip_norm is not None:
        fabric.clip_gradients(wrapped, optimizer, max_norm=run.clip_norm, error_if_nonfinite=False)
    elif methods:
        fabric.strategy.precision.unscale_gradients(optimizer)
    for method in methods:
        with calling(method.component, "before_step"):
            method.before_step(model, step)
    stepping.step()
    for method in methods:
        with calling(method.component, "after_step"):
            method.after_step(model, step, optimizer)


def dry_run(run: Run) -> dict[str, Any]:
    """Does everything before the first step without writing files; returns the loss and sizes.

    A run with methods also does a step with two utterances, without those methods that `prepare`.
    """
    parts = _parts(run)
    model = parts.model
    _begin(model, run, parts.dataset)
    for method in parts.methods:
        with calling(method.component, "start"):
            method.start(model, parts.dataset)
    built("optimizer", run.optimizer, _parameter_groups(model, parts.methods))
    evaluate(model, parts.dev, workers=run.data.workers)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if ready := [method for method in parts.methods if not overrides(method, "prepare")]:
        with torch.random.fork_rng(devices=[]):
            _try_step(run, parts, ready)
    loss = str(Spec.parse(run.loss or parts.task.loss))
    return {
        "loss": loss,
        "parameters": parameters,
        "train": len(parts.train),
        "dev": len(parts.dev),
    }


def _try_step(run: Run, parts: "_Parts", methods: Sequence[Method]) -> None:
    """A step with the first two utterances, which changes the model."""
    # half precision of float16 is for GPUs alone
    fabric = launch("cpu", "32-true", DDP, 1, 1)
    model, dataset = parts.model, parts.dataset
    wrapped = fabric.setup_module(model)
    wrapped.mark_forward_method("score")
    extra = [_set_up(method, fabric) for method in methods if overrides(method, "extra_loss")]
    optimizer = built("optimizer", run.optimizer, _parameter_groups(model, methods))
    stepping = fabric.setup_optimizers(optimizer)
    objective = Objective(parts.task, parts.loss, parts.unlabeled, extra)
    gradients = Gradients(fabric, model, wrapped, optimizer, objective, methods, 1)
    two = collate([dataset[index] for index in range(min(2, len(dataset)))])
    batch = two.repeated(max(method.views for method in methods))

    def draw() -> tuple[Batch, Callable[[], Chunk]]:
        return batch, partial(batch_features, model, batch, parts.feature_augment, run.seed, 0)

    wrapped.train()
    gradients.compute(draw, 1)
    _update(run, fabric, model, wrapped, stepping, methods, 1)


@dataclass(frozen=True)
class _Parts:
    """The components and data of a run, built and checked."""

    train: list[Utterance]
    dev: list[Utterance]
    dataset: UtteranceDataset
    feature_augment: list[Any]
    model: Model
    task: Task
    methods: list[Method]
    loss: Any
    unlabeled: Tensor


def _parts(run: Run) -> _Parts:
    train, dev = training_utterances(run.data), read_manifest(run.data.dev)
    join, audio_augment, feature_augment = run_augmentations(run)
    model = build(run.model, run.seed)
    task = task_of(model)
    check_joins(join, task)
    methods = built_methods(run)
    target = _target(task, methods)
    dataset = UtteranceDataset(
        train,
        target,
        sample_rate=model.sample_rate,
        augmentations=audio_augment,
        join=join,
        seed=run.seed,
        cache=run.data.cache,
    )
    loss = built("loss", run.loss or task.loss)
    check_learns(loss, run.loss or task.loss, task, methods)
    check_loss(loss, run.loss or task.loss, task, model, dataset)
    # as the first epoch reads them
    first = [dataset.utterance(index) for index in range(len(dataset))]
    check_targets(first, dev, task, target, loss, model)
    check_augmented(dataset, loss, model)
    check_schedule(built("schedule", run.schedule, run.steps), run.schedule)
    unlabeled = torch.tensor([task.lacks_target(utterance) for utterance in train])
    return _Parts(train, dev, dataset, feature_augment, model, task, methods, loss, unlabeled)


def _begin(model: Model, run: Run, dataset: UtteranceDataset) -> None:
    """Loads the weights of `start_from`, else fits the front end's statistics to the data."""
    if run.start_from is not None:
        start_from(model, run.start_from)
    else:
        fit_statistics(model.frontend, spread_audio(dataset))


def _parameter_groups(model: Model, methods: Sequence[Method]) -> list[dict[str, Any]]:
    """The groups of the model and of the methods; groups with equal settings are joined."""
    groups = parameter_groups(model)
    for method in methods:
        with calling(method.component, "parameter_groups"):
            for group in method.parameter_groups():
                settings = {**group, "params": None}
                same = [known for known in groups if {**known, "params": None} == settings]
                if same:
                    same[0]["params"] += group["params"]
                else:
                    groups.append(group)
    return groups


def _target(task: Task, methods: Sequence[Method]) -> Callable[[Utterance], Tensor]:
    """The task's targets; a placeholder for utterances without any where a method needs none."""
    if task.placeholder is None or not any(method.needs_no_text for method in methods):
        return task.encode
    return partial(_target_or_placeholder, task)


def _target_or_placeholder(task: Task, utterance: Utterance) -> Tensor:
    if task.placeholder is not None and task.lacks_target(utterance):
        return task.placeholder
    return task.encode(utterance)


def _go_on(loop: Loop, changed: set[str]) -> None:
    """Warns of settings that changed in a resumed run, and resets what depends on them."""
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


def _set_up(method: Method, fabric: Any) -> Any:
    """The method, wrapped by Fabric if it has weights to train."""
    if not isinstance(method, nn.Module) or not any(p.requires_grad for p in method.parameters()):
        return method
    wrapped = fabric.setup_module(method.to(fabric.device))
    wrapped.mark_forward_method("extra_loss")
    return wrapped


def _average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """average ← d · average + (1 − d) · model, with d rising to `decay` over the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(full_tensor(new), 1 - decay)
        else:
            old.copy_(new)
