"""The folder of a run, and the state that an interrupted run needs to go on."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AliasChoices, Field
from safetensors import safe_open
from torch import Tensor, nn

from speechkit.checkpoint import (
    TRAINING,
    model_folder,
    read_tensors,
    write_model,
    write_tensors,
)
from speechkit.component import Spec
from speechkit.config import from_dict, to_dict, write_json
from speechkit.errors import SpeechkitError, TrainingError, one_line
from speechkit.io.files import atomic_file, locked, recover
from speechkit.io.untrusted import UntrustedError, parse_json, read_json
from speechkit.models import Model
from speechkit.nn.collectives import full_tensor, gather, spread_as
from speechkit.train.journal import FILE

T = TypeVar("T")

LAST, BEST = "last", "best"
RUN = "run.json"


@dataclass
class Loop:
    """The position of a run and the state of fp16's scaler, as stored in `loop.json`.

    `judged` is the step of the last finished evaluation; a save comes before each evaluation.
    Integers stay integers, so that the file is the same after an interruption.
    """

    step: int = 0
    judged: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = float("inf")
    # runs of earlier versions call them marks
    metrics: Annotated[
        dict[str, int | float], Field(validation_alias=AliasChoices("metrics", "marks"))
    ] = field(default_factory=dict)
    scaler: dict[str, int | float] = field(default_factory=dict)


@contextmanager
def open_folder(out: Path, resume: bool, fabric: Any) -> Iterator[bool]:
    """Locks the folder of a run; yields True if it holds a state to go on from.

    Raises TrainingError, before anything is changed, where another process trains there, where
    there is a run but `resume` is False, or where there is none and it is True.
    """
    with ExitStack() as stack:
        with fabric.rank_zero_first():
            if fabric.is_global_zero:
                stack.enter_context(_taken(out, resume))
            started = (out / LAST).is_dir()
        yield started


@contextmanager
def _taken(out: Path, resume: bool) -> Iterator[None]:
    there = out.is_dir()
    if resume and not there:
        raise TrainingError(f"{out} holds no run to resume; leave out --resume")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out, "run") as mine:
            if not mine:
                raise TrainingError(
                    f"{out} is in use, another process trains there; wait for it or choose another "
                    "--out"
                )
            _check_files(out, resume)
            for folder in (out, out / LAST, out / LAST / TRAINING, out / BEST):
                recover(folder)
            yield
    finally:
        if not there:
            # only an empty folder is removed, after a run that wrote nothing
            with suppress(OSError):
                out.rmdir()


def _check_files(out: Path, resume: bool) -> None:
    """Raises TrainingError where a run would overwrite files of something else."""
    begun = (out / RUN).is_file()
    if resume and not begun:
        raise TrainingError(f"{out} holds no run to resume; leave out --resume")
    if not resume and begun:
        raise TrainingError(f"{out} holds a run already; add --resume or choose another --out")
    if not begun:
        foreign: tuple[str, ...] = (LAST, BEST, FILE)
    else:
        foreign = () if (out / LAST).is_dir() else (BEST,)
    for name in foreign:
        if (out / name).exists():
            raise TrainingError(
                f"{out} holds {name} of no run that could go on; move it away or choose another "
                "--out"
            )


def read_run(out: Path, kind: type[T]) -> T:
    """Reads the run that `write_run` wrote, of type `kind`."""
    return _read(kind, out / RUN)


def changed_settings(out: Path, before: Any, now: Any) -> set[str]:
    """The settings that differ between a stored run and the one that resumes it.

    Raises TrainingError for the first that cannot change in the middle of a run.
    """
    old, new = _settings(before), _settings(now)
    changed = {name for name, value in new.items() if old.get(name) != value}
    for name in sorted(changed):
        if (why := FIXED.get(name.partition(".")[0])) is not None:
            raise TrainingError(
                f"{name} was {_shown(old.get(name))} in {out / RUN} and is {_shown(new[name])} "
                f"now, but {why}; leave it or choose another --out"
            )
    for name in ("optimizer", "method"):
        names = [_names(run[name]) for run in (old, new)]
        if names[0] != names[1]:
            raise TrainingError(
                f"{out / RUN} was trained with {name} {_shown(old[name])}, not "
                f"{_shown(new[name])}; only parameters can change: name the same or choose another "
                "--out"
            )
    return changed


FIXED = {
    "model": "the weights are that model's",
    "start_from": "it is read before the first step alone",
    "seed": "it orders the data of the whole run",
}
"""Settings that cannot change when a run is resumed, and why."""
PLAN = tuple(
    f"data.{name}"
    for name in ("train", "batch_size", "batch_seconds", "buckets", "window", "max_duration_s")
)
"""Settings that determine the batches of an epoch."""


def _settings(run: Any) -> dict[str, Any]:
    """Plain data of each field of a run; those of its parts as `model.NAME` and `data.NAME`."""
    plain = to_dict(run)
    for part in ("model", "data"):
        plain |= {f"{part}.{name}": value for name, value in plain.pop(part).items()}
    return dict(plain)


def _names(specs: Any) -> list[str]:
    return [spec["name"] for spec in (specs if isinstance(specs, list) else [specs])]


def _shown(value: Any) -> str:
    """A short text for a setting."""
    specs = value if isinstance(value, list) else [value]
    if all(isinstance(spec, dict) and set(spec) == {"name", "params"} for spec in specs):
        return ", ".join(str(Spec(**spec)) for spec in specs) or "none"
    return shorten(json.dumps(value, ensure_ascii=False), 60)


def write_run(out: Path, run: Any) -> None:
    """Writes `run.json` atomically."""
    with atomic_file(out / RUN) as part:
        write_json(part, to_dict(run))


def write_training(
    path: Path,
    fabric: Any,
    model: Model,
    average: Model,
    stateful_methods: nn.Module,
    optimizer: Any,
    loop: Loop,
) -> None:
    """Writes the averaged model as a model folder, with the state that the next step depends on.

    `stateful_methods` are the methods with state. Every process must call this; the first writes.
    """
    weights, kept = (
        {name: full_tensor(value) for name, value in module.state_dict().items()}
        for module in (model, stateful_methods)
    )
    state = optimizer.state_dict()
    flat = {
        f"{index}/{name}": full_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    generators = _generators(fabric)
    if not fabric.is_global_zero:
        return
    loop.scaler = fabric.strategy.precision.state_dict()
    groups = json.dumps(state["param_groups"])
    with model_folder(path) as folder:
        write_model(average, folder)
        training = folder / TRAINING
        training.mkdir()
        write_tensors(training / "weights.safetensors", weights)
        if kept:
            write_tensors(training / "methods.safetensors", kept)
        write_tensors(training / "optimizer.safetensors", flat, {"groups": groups})
        write_tensors(training / "rng.safetensors", generators)
        write_json(training / "loop.json", asdict(loop))


def read_weights(path: Path, model: Model, average: Model, stateful_methods: nn.Module) -> None:
    """Loads the weights that `write_training` wrote; called before FSDP shards them."""
    with _readable(path):
        average.load_state_dict(read_tensors(path / "model.safetensors"))
        model.load_state_dict(read_tensors(path / TRAINING / "weights.safetensors"))
        if stateful_methods.state_dict():
            stateful_methods.load_state_dict(read_tensors(path / TRAINING / "methods.safetensors"))


def write_loop(path: Path, loop: Loop) -> None:
    """Writes the position of the run again, after an evaluation."""
    with atomic_file(path / TRAINING / "loop.json") as part:
        write_json(part, asdict(loop))


def read_training(path: Path, fabric: Any, optimizer: Any, before: Any) -> Loop:
    """Loads everything else that `write_training` wrote.

    `before` is an optimiser with the settings of the stored run; settings that differ from it were
    changed by the user and override the stored ones.
    """
    with _readable(path):
        training = path / TRAINING
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in read_tensors(training / "optimizer.safetensors").items():
            index, _, name = key.partition("/")
            state.setdefault(int(index), {})[name] = spread_as(value, parameters[int(index)])
        with safe_open(training / "optimizer.safetensors", "pt") as file:
            stored = (file.metadata() or {}).get("groups", "")
        groups = parse_json(stored, any_number=True)
        for group, old, new in zip(
            groups, before.param_groups, optimizer.param_groups, strict=True
        ):
            group |= {key: new[key] for key in new if key != "params" and new[key] != old.get(key)}
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        _set_generators(read_tensors(training / "rng.safetensors"), fabric)
        # before the first evaluation the best error is infinity
        loop: Loop = _read(Loop, training / "loop.json", any_number=True)
        if not loop.step:
            raise ValueError("loop.json names no step")
        if loop.scaler:
            fabric.strategy.precision.load_state_dict(loop.scaler)
        return loop


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns any error from a stored state that does not fit the run into a TrainingError."""
    try:
        yield
    except SpeechkitError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path / TRAINING} is damaged: {one_line(error)}; choose another --out"
        ) from error


def _read(kind: type[T], path: Path, *, any_number: bool = False) -> T:
    """Reads a config of type `kind` from a JSON file of a run."""
    try:
        stored = read_json(path, any_number=any_number)
    except UntrustedError as error:
        raise TrainingError(
            f"{path}: {error}; put back the file or choose another --out"
        ) from error
    config: T = from_dict(kind, stored, str(path), any_number=any_number)
    return config


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states `[N]` of torch's random generators in this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Restores the states that `random_state` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _generators(fabric: Any) -> dict[str, Tensor]:
    """The states of the random generators, of one process `[N]` or of several `[P, N]`."""
    states = random_state(fabric.device)
    if fabric.world_size == 1:
        return states
    return {name: gather(x.to(fabric.device)).cpu() for name, x in states.items()}


def _set_generators(states: dict[str, Tensor], fabric: Any) -> None:
    rows = {name: x.view(-1, x.shape[-1]) for name, x in states.items()}
    if (processes := len(rows["cpu"])) != fabric.world_size:
        raise TrainingError(
            f"the run was of {processes} processes, not {fabric.world_size}; resume it with as many"
        )
    # set_rng_state ignores the offset of a view, so each row is copied
    own = {name: x[fabric.global_rank].clone() for name, x in rows.items()}
    set_random_state(own, fabric.device)
