"""`speechkit train`: trains the run of a recipe's function; five flags control how."""

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechkit.cli.options import Json
from speechkit.cli.output import in_words, show
from speechkit.component import Spec, did_you_mean
from speechkit.errors import ConfigError, SpeechkitError

if TYPE_CHECKING:
    from speechkit.train import Run


def train(
    recipe: Annotated[str, typer.Argument(metavar="RUN.py[:function]", help="What to train.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default="runs/FUNCTION", help="Where to write."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a setting, such as steps=100."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the settings, check model and manifests, and train nothing."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the run that a function of RUN.py returns: `base`, unless you name another."""
    from speechkit.config import override, to_dict
    from speechkit.train import dry_run as check
    from speechkit.train import fit
    from speechkit.train.distributed import is_first
    from speechkit.train.run import assigned

    name, run = load_run(recipe)
    run = override(run, assigned(assignments or []))
    if dry_run:
        show({"config": to_dict(run)}, "\n".join(settings(run)), as_json)
        figures = check(run)
        words = (f"{k} {v if isinstance(v, str) else f'{v:,}'}" for k, v in figures.items())
        show(figures, ", ".join(words), as_json)
        return
    out = out or Path("runs") / name
    # the progress bar must not mix with JSON lines
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        metrics = fit(run, out, resume, device)
    if is_first():
        show({"out": str(out), **metrics}, f"{out / 'best'}: {in_words(metrics)}", as_json)


def load_run(recipe: str) -> tuple[str, "Run"]:
    """The name and the Run of `RUN.py` or `RUN.py:function`."""
    from speechkit.train import Run

    path, _, name = recipe.partition(":")
    functions = _functions(_load(Path(path)))
    runs = [key for key, function in functions.items() if _gives_run(function)]
    if not name:
        if "base" not in functions and len(runs) != 1:
            raise ConfigError(f"{path} has runs {', '.join(runs) or 'none'}; type {path}:function")
        name = "base" if "base" in functions else runs[0]
    if name not in functions:
        raise ConfigError(f"{path} has no run {name!r}. {did_you_mean(name, runs)}")
    try:
        run = functions[name]()
    except SpeechkitError:
        raise
    except Exception as error:
        former = (
            "; the setting init is now start_from"
            if "keyword argument 'init'" in str(error)
            else ""
        )
        raise ConfigError(f"{path}:{name} fails: {error!r}{former}") from error
    if not isinstance(run, Run):
        raise ConfigError(f"{path}:{name} gives {type(run).__name__}; return a speechkit.Run")
    return name, run


def settings(config: Any, path: str = "") -> Iterator[str]:
    """Every field of a config as `path=value`, the form that `--set` takes."""
    from speechkit.config import to_dict

    for field in fields(config):
        name, value = f"{path}{field.name}", getattr(config, field.name)
        if is_dataclass(value) and not isinstance(value, Spec):
            yield from settings(value, f"{name}.")
        elif isinstance(value, str | Path | Spec):
            yield f"{name}={value}"
        else:
            yield f"{name}={json.dumps(to_dict(value), ensure_ascii=False)}"


def _load(path: Path) -> ModuleType:
    """The recipe as a module; files beside it can be imported, as from a script."""
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"no recipe {path}; give a Python file whose functions return a Run")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except SpeechkitError:
        raise
    except Exception as error:
        raise ConfigError(f"{path} does not import: {error!r}") from error
    return module


def _functions(module: ModuleType) -> dict[str, Callable[[], Any]]:
    """The module's public functions that can be called without arguments."""
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
        and all(
            parameter.default is not parameter.empty
            for parameter in inspect.signature(function).parameters.values()
        )
    }


def _gives_run(function: Callable[[], Any]) -> bool:
    annotation = inspect.get_annotations(function).get("return")
    return str(getattr(annotation, "__name__", annotation)).rpartition(".")[2] == "Run"
