"""Training: what a run is, and the loop that carries it out, to be read from top to bottom."""

import json
import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.checkpoint import AnyNet, load, read_tensors, save, whole_folder, write_model
from speechkit.component import Spec
from speechkit.config import to_dict, write_json
from speechkit.data import (
    Batch,
    Utterance,
    UtteranceDataset,
    apply,
    batches,
    bucket_batches,
    read_manifest,
    utterance_generator,
)
from speechkit.errors import ConfigError, MissingExtraError, TrainingError
from speechkit.evaluation import evaluate
from speechkit.frontend import fit_statistics
from speechkit.journal import Journal
from speechkit.memory import keep_freed_memory
from speechkit.models import Model, Output, build
from speechkit.models.net import Name
from speechkit.nn import Chunk
from speechkit.ops.native import sum_type
from speechkit.plugins import registry
from speechkit.tasks import task_of

log = logging.getLogger(__name__)

LAST, BEST, TRAINING = "last", "best", "training"


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the utterances are and how they are grouped.

    `train` may be several manifests; one named twice counts twice in each epoch.
    A batch holds at most `batch_size` utterances and `batch_seconds` seconds, padding included.
    `buckets` groups of similar durations keep padding low; with 1, batches are drawn at random,
    which batch norm prefers where durations tell classes or speakers apart. Training utterances
    longer than `max_duration_s` are left out; `cache` keeps the rest decoded.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    train: Path | tuple[Path, ...]
    dev: Path
    batch_size: int | None = 32
    batch_seconds: float | None = None
    buckets: int = 20
    max_duration_s: float = 16.7
    workers: int = 0
    cache: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides what a training run does; a recipe is a function that returns one.

    `method` names training methods (distillation). `init` is a model folder to start from: its
    front end, stem and encoder, and its head where the labels are the same. `accumulate` batches
    make one step. `clip_norm` bounds the gradient's norm.
    `ema` is the decay of the averaged weights, which are evaluated and saved; 0 for none.
    `precision` is Fabric's.
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
        for name in ("steps", "accumulate", "eval_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: give at least 1")


@dataclass
class Loop:
    """Where a run is: exactly what `loop.json` holds."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = float("inf")
    marks: dict[str, float] = field(default_factory=dict)


def fit(run: Run, out: Path | str, resume: bool = False, device: str = "auto") -> dict[str, float]:
    """Trains a model into the folder `out` and returns the figures of the best on the dev set.

    `out/best` and `out/last` are model folders, the latter with what resuming needs;
    `out/run.json` is the resolved run and `out/metrics.jsonl` its figures. Interrupted runs go on
    with `resume`, bit by bit as if they had not been (same machine and thread count).
    """
    out = Path(out)
    hook = registry().hook
    _check_out(out, run, resume)

    # seed, device and precision
    keep_freed_memory()
    fabric = _fabric(device, run.precision)
    torch.manual_seed(run.seed)

    # data
    train = _training_utterances(run.data)
    dev = read_manifest(run.data.dev)
    audio_augment, feature_augment = _augmentations(run)

    # model, and statistics of the data where its front end wants them and `init` brings none
    model = build(run.model, run.seed)
    task = task_of(model)
    dataset = UtteranceDataset(
        train,
        task.encode,
        sample_rate=model.sample_rate,
        augmentations=audio_augment,
        seed=run.seed,
        cache=run.data.cache,
    )
    for utterance in (*train, *dev):
        task.encode(utterance)
    if run.init is not None and not resume:
        _start_from(model, run.init)
    elif not resume:
        fit_statistics(model.frontend, _some_audio(dataset))

    # loss, methods, optimiser, schedule, averaged weights
    loss_of = registry().build("loss", run.loss or task.loss)
    methods = [registry().build("method", spec) for spec in run.method]
    for method in methods:
        method.start(model, dataset)
    optimizer = registry().build("optimizer", run.optimizer, model.parameters())
    schedule = registry().build("schedule", run.schedule, run.steps)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    average = deepcopy(model).requires_grad_(False) if run.ema else model

    # resume
    loop = Loop()
    if resume:
        loop = _read_training(out / LAST, model, average, optimizer)
    wrapped, optimizer = fabric.setup(model, optimizer)
    wrapped.mark_forward_method("score")
    average.to(fabric.device)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", to_dict(run))
    journal = Journal(out, run.steps, loop.step)
    hook.speechkit_run_start(run=run)

    stream = _endless(dataset, run, loop)
    losses = torch.zeros(0)
    with journal:
        while loop.step < run.steps:
            # one optimiser step over `accumulate` batches
            wrapped.train()
            factor = schedule(loop.step)
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = lr * factor
            total = 0.0
            for index in range(run.accumulate):
                batch = next(stream)
                features = _features(model, batch, feature_augment, run.seed, loop.epoch)
                with fabric.no_backward_sync(wrapped, enabled=index + 1 < run.accumulate):
                    # Fabric's own autocast is for `forward` alone
                    with fabric.autocast():
                        output = wrapped.score(features)
                    scores = output.scores.to(sum_type(output.scores.dtype))
                    losses = loss_of(scores, output.lengths, *task.targets(batch, output))
                    for method in methods:
                        losses = losses + method.extra_loss(batch, Output(scores, output.lengths))
                    loss = losses.mean() / run.accumulate
                    _check_finite(loss, loop.step, batch)
                    fabric.backward(loss)
                total += loss.item()
            if run.clip_norm is not None:
                fabric.clip_gradients(wrapped, optimizer, max_norm=run.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            loop.step += 1
            if run.ema:
                _average(average, model, run.ema, loop.step)
            journal.advance(loop.step, total)
            hook.speechkit_run_step(run=run, step=loop.step, loss=total)

            # once in a while: log, evaluate, save
            last = loop.step == run.steps
            if loop.step % run.log_every == 0 or last:
                lr = optimizer.param_groups[0]["lr"]
                journal.log(loop.step, loss=total, lr=lr, epoch=loop.epoch)
            if loop.step % run.eval_every == 0 or last:
                marks = evaluate(average, dev, workers=run.data.workers)
                journal.log(loop.step, **marks)
                hook.speechkit_run_eval(run=run, metrics=marks)
                if task.error(marks) <= loop.best:
                    loop.best, loop.marks = task.error(marks), marks
                    save(average, out / BEST)
            if loop.step % run.save_every == 0 or last:
                _write_training(out / LAST, model, average, optimizer, loop)
    hook.speechkit_run_end(run=run)
    return loop.marks


def _training_utterances(data: Data) -> list[Utterance]:
    """Those of all training manifests that are short enough."""
    manifests = (data.train,) if isinstance(data.train, Path) else data.train
    found = [u for manifest in manifests for u in read_manifest(manifest)]
    if train := [u for u in found if u.duration_s <= data.max_duration_s]:
        return train
    raise TrainingError(
        f"every utterance of {', '.join(map(str, manifests)) or 'no manifest'} is longer than "
        f"max_duration_s={data.max_duration_s:g}; raise it"
    )


def _endless(dataset: UtteranceDataset, run: Run, loop: Loop) -> Iterator[Batch]:
    """Batches from where the loop is, epoch after epoch, counted in `loop` as they are given."""
    durations_s = [utterance.duration_s for utterance in dataset.utterances]
    while True:
        plan = bucket_batches(
            durations_s,
            batch_size=run.data.batch_size,
            batch_seconds=run.data.batch_seconds,
            seed=run.seed,
            epoch=loop.epoch,
            buckets=run.data.buckets,
        )
        dataset.epoch = loop.epoch
        for batch in batches(dataset, plan, run.data.workers, start=loop.batch):
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
    for row, length, index in zip(c.x.cpu(), c.lengths.tolist(), batch.indices, strict=True):
        generator = utterance_generator(seed, epoch, index, "features")
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
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def _check_finite(loss: Tensor, step: int, batch: Batch) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(
            f"loss is {loss.item()} at step {step}; the batch holds {', '.join(batch.names)}; "
            "look at these files, lower the learning rate or set clip_norm"
        )


def _check_out(out: Path, run: Run, resume: bool) -> None:
    started = (out / LAST).is_dir()
    if resume and not started:
        raise TrainingError(f"{out} holds no run to resume; leave out --resume")
    if started and not resume:
        raise TrainingError(f"{out} holds a run already; add --resume or choose another --out")
    if resume:
        stored = json.loads((out / "run.json").read_text(encoding="utf-8"))
        if stored["model"] != json.loads(json.dumps(to_dict(run.model))):
            raise TrainingError(f"{out} was trained with another model; see {out / 'run.json'}")


def _fabric(device: str, precision: str) -> Any:
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise MissingExtraError("lightning-fabric", "train") from error
    accelerator, _, index = device.partition(":")
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=[int(index)] if index else 1,
            precision=precision,  # type: ignore[arg-type]
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise TrainingError(f"device {device!r}, precision {precision!r}: {error}") from error
    fabric.launch()
    return fabric


def _write_training(path: Path, model: Model, average: Model, optimizer: Any, loop: Loop) -> None:
    """The averaged model as a model folder, and beside it what the next step depends on."""
    from safetensors.torch import save_file

    with whole_folder(path) as folder:
        write_model(average, folder)
        training = folder / TRAINING
        training.mkdir()
        save_file(_tensors(model), training / "weights.safetensors")
        state = optimizer.state_dict()
        flat = {
            f"{index}/{name}": value.contiguous()
            for index, values in state["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        groups = json.dumps(state["param_groups"])
        save_file(flat, training / "optimizer.safetensors", {"groups": groups})
        save_file({"cpu": torch.get_rng_state()}, training / "rng.safetensors")
        write_json(training / "loop.json", asdict(loop))


def _read_training(path: Path, model: Model, average: Model, optimizer: Any) -> Loop:
    """Puts everything `_write_training` wrote back in its place."""
    from safetensors import safe_open

    training = path / TRAINING
    average.load_state_dict(read_tensors(path / "model.safetensors"))
    model.load_state_dict(read_tensors(training / "weights.safetensors"))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in read_tensors(training / "optimizer.safetensors").items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    with safe_open(training / "optimizer.safetensors", "pt") as file:
        groups = json.loads(file.metadata()["groups"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(read_tensors(training / "rng.safetensors")["cpu"])
    stored = json.loads((training / "loop.json").read_text(encoding="utf-8"))
    return Loop(**{f.name: stored[f.name] for f in fields(Loop)})


def _tensors(model: Model) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in model.state_dict().items()}
