"""Runs the steps of a recipe in order, each once."""

import inspect
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from speechkit.card import read_transforms
from speechkit.checkpoint import load, save
from speechkit.component import Spec, did_you_mean
from speechkit.config import from_dict, to_dict, write_json
from speechkit.errors import ConfigError
from speechkit.io.files import atomic_file
from speechkit.io.untrusted import UntrustedError, read_json
from speechkit.probes import Examples
from speechkit.train.loop import fit
from speechkit.train.resume import RUN
from speechkit.train.run import Run
from speechkit.transforms import transform

FILE = "pipeline.json"
NAME = re.compile(r"\w[\w.-]*")
"""Valid names of steps, which are also names of folders."""


@dataclass
class Step:
    """A step that was started: its name, its settings as plain data, and whether it is done."""

    name: str
    settings: dict[str, Any]
    done: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} is no name of a step; give letters, digits, _ and -")


class Pipeline:
    """Runs steps in order, in one folder, and continues after an interruption.

        do = Pipeline(Path("runs/words"))
        do.call("prepare", prepare, Path("corpus"), Path("data/words"))
        do.train("base", base())
        do.transform("final", Path("runs/words/base/best"), "bias:by=-0.5")

    `pipeline.json` in the folder holds the steps that were started, with their settings. A finished
    step is not run again, an interrupted training run is resumed, and any other step starts from
    its beginning. Raises ConfigError if a finished step or one of its settings has changed. `redo`
    names a step to run again with all later ones: their files in the folder are deleted.
    """

    def __init__(self, folder: Path, redo: str = "", device: str = "auto") -> None:
        self.folder, self.device = folder, device
        self._steps = self._read()
        self._next = 0
        if redo:
            self._forget(redo)

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """A step that calls a function; its settings are the arguments, which JSON can hold."""
        bound = inspect.signature(function).bind(*args)
        bound.apply_defaults()
        self._do(name, to_dict(dict(bound.arguments)), lambda _: function(*args))

    def train(self, name: str, run: Run) -> None:
        """A step that trains a run into the folder `name`."""
        out = self.folder / name

        def work(begun: bool) -> None:
            # a run from another pipeline is refused
            fit(run, out, resume=begun and (out / RUN).is_file(), device=self.device)

        self._do(name, to_dict(run), work, Run)

    def transform(
        self, name: str, model: Path, *specs: Spec | str, manifest: Path | None = None
    ) -> None:
        """A step that applies transforms to a model folder, and writes the folder `name`."""
        asked = [Spec.parse(spec) for spec in specs]

        def work(begun: bool) -> None:
            given = load(model)
            examples = None if manifest is None else Examples(given, manifest)
            made, applied = transform(given, asked, examples)
            save(made, self.folder / name, transforms=[*read_transforms(model), *applied])

        settings = {"model": str(model), "with": to_dict(asked), "manifest": to_dict(manifest)}
        self._do(name, settings, work)

    def _do(self, name: str, settings: Any, work: Callable[[bool], Any], kind: type = dict) -> None:
        begun = self._next < len(self._steps)
        if not begun:
            self._steps.append(Step(name, settings))
        step = self._steps[self._next]
        self._check(step, name, settings, kind)
        self._next += 1
        if not step.done:
            step.settings = settings
            self._write()
            print(f"pipeline: {name}", flush=True)
            work(begun)
            step.done = True
            self._write()

    def _check(self, step: Step, name: str, settings: Any, kind: type) -> None:
        """Raises ConfigError unless the stored step at this position is this one."""
        record = self.folder / FILE
        again = f"give another folder, or do it and what follows again: --redo={step.name}"
        if step.name != name:
            raise ConfigError(
                f"{record}: step {self._next + 1} was {step.name} and is {name} now; {again}"
            )
        if step.done:
            # a later version of speechkit may have more settings
            stored = to_dict(from_dict(kind, step.settings, f"{record}: {name}"))
            for path, old, new in _differences(stored, settings):
                raise ConfigError(
                    f"{record}: step {name} had {path}={old}, now {path}={new}; {again}"
                )

    def _forget(self, redo: str) -> None:
        names = [step.name for step in self._steps]
        if redo not in names:
            raise ConfigError(
                f"{self.folder / FILE} has no step {redo!r}. {did_you_mean(redo, names)}"
            )
        place = names.index(redo)
        del self._steps[place:]
        self._write()
        for name in names[place:]:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _read(self) -> list[Step]:
        path = self.folder / FILE
        if not path.exists():
            return []
        try:
            stored = read_json(path)
        except UntrustedError as error:
            raise ConfigError(f"{path}: {error}; put it back or give another folder") from error
        steps: list[Step] = from_dict(list[Step], stored, str(path))
        return steps

    def _write(self) -> None:
        with atomic_file(self.folder / FILE) as part:
            write_json(part, [asdict(step) for step in self._steps])


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """The paths of differences between two trees of plain data, and both values in short."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{path}.{key}" if path else key
            yield from _differences(old.get(key), new.get(key), inner)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, values in enumerate(zip(old, new, strict=True)):
            yield from _differences(*values, f"{path}.{index}")
    elif old != new:
        yield path, _shown(old), _shown(new)


def _shown(value: Any) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), 60)
