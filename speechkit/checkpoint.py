"""Saves and loads model folders: `model.safetensors` and `config.json`, never a pickle."""

import speechkit.torch_required

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
from pydantic_core.core_schema import tagged_union_schema
from safetensors import SafetensorError
from torch import Tensor

from speechkit.card import CARD, TRANSFORMS, AppliedTransform, ModelCard
from speechkit.component import Spec
from speechkit.config import from_dict, to_dict, write_json
from speechkit.errors import CheckpointError, ComponentError, PluginError
from speechkit.io.files import atomic_folder, recover
from speechkit.io.folders import CONFIG, FORMAT, PLAN, WEIGHTS, find, read_config
from speechkit.io.untrusted import UntrustedError, check_tensors_header, read_json
from speechkit.models import Model, Net, build
from speechkit.models.model import refuse_prepared
from speechkit.packages import DISTRIBUTION, OURS, how_to_get
from speechkit.plugins import CORE, registry

log = logging.getLogger(__name__)

TRAINING = "training"
STATE = tuple(
    f"{TRAINING}/{name}"
    for name in (
        "loop.json",
        "methods.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "weights.safetensors",
    )
)
"""The folder with the state for resuming a run, besides the averaged model."""

ModelSource = Model | str | os.PathLike[str]
"""A model, its folder, or the name of a bundled one."""
NUMBERS = re.compile(r"\d{1,9}(\.\d{1,9}){1,3}")
"""A version that can be compared."""


class _OfAnyKind:
    """Reads a config as the class for its `kind`, a component of kind net."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: Any) -> Any:
        schemas: dict[str, Any] = {}
        for entry in registry().components("net"):
            # a short name of the core's, which come first, is the core's
            schemas.setdefault(entry.component.name, handler.generate_schema(entry.factory()))
        return tagged_union_schema(schemas, discriminator="kind")


AnyNet = Annotated[Net, _OfAnyKind]
"""A config of any family, the core's and those of loaded plugins."""


def save(
    model: Model,
    path: Path | str,
    card: ModelCard | None = None,
    transforms: Sequence[AppliedTransform] = (),
) -> None:
    """Writes the model, its card and the reports of its transforms to a folder, atomically.

    In an existing model folder the files of speechkit are replaced, and other files stay.
    """
    refuse_prepared(model, "save")
    check_place(Path(path))
    with model_folder(Path(path)) as folder:
        write_model(model, folder)
        if card is not None:
            write_json(folder / CARD, to_dict(card))
        if transforms:
            write_json(folder / TRANSFORMS, to_dict(tuple(transforms)))


def check_place(path: Path) -> None:
    """Raises CheckpointError if `save` cannot write to `path`."""
    if Path(path, TRAINING).is_dir():
        raise CheckpointError(f"{path} is what a run goes on from; choose another path")
    _check_ours(path)


def write_model(model: Model, folder: Path) -> None:
    """Writes weights and config into an existing folder."""
    config = model.config
    needed = [("net", _net_of(config)), *config.components(), ("task", Spec.parse(config.task))]
    write_tensors(folder / WEIGHTS, model.state_dict())
    write_json(
        folder / CONFIG,
        {
            "format": FORMAT,
            "speechkit": metadata.version(DISTRIBUTION),
            "behaviour": config.behaviour,
            "config": to_dict(config),
            "plugins": {
                name: {key: value for key, value in asdict(origin).items() if value}
                for name, origin in registry().used_by(needed).items()
            },
            "labels": list(model.labels),
            "sample_rate": model.sample_rate,
        },
    )


def load(path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> Model:
    """The model in a folder, or a bundled one by name (`digits`), ready for evaluation.

    Weights that are NaN or infinite are refused, unless `allow_nonfinite` is set, for inspection.
    """
    folder = find(path)
    stored = read_config(folder)
    _warn_of_older(folder, stored)
    _check_plugins(folder, stored)
    config = _read_net(folder, stored)
    _check_components(folder, config)
    model = build(config)
    tensors = read_tensors(folder / WEIGHTS, allow_nonfinite)
    try:
        # layers may adapt what an older version saved, so theirs are the sizes that count
        missing, unknown = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(_misfit(folder / WEIGHTS, tensors, model.state_dict())) from error
    if missing:
        raise CheckpointError(
            f"{folder / WEIGHTS} lacks {missing[0]!r}; it is not this config's model"
        )
    if unknown:
        raise CheckpointError(f"{folder / WEIGHTS} holds {min(unknown)!r}, unknown to its config")
    return model.eval()


def _misfit(path: Path, tensors: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """The first tensor of another shape than the model's own, in words."""
    name = next(n for n in own if n in tensors and tensors[n].shape != own[n].shape)
    there, here = list(tensors[name].shape), list(own[name].shape)
    return f"{path}: {name!r} has shape {there}, the config asks for {here}"


def as_model(source: ModelSource) -> Model:
    """The given model, or the one that `load` reads from a folder or by a bundled name.

    It is read each time, so load it once for many recordings. Raises CheckpointError like `load`.
    """
    if isinstance(source, Model):
        return source
    return load(source)


def read_tensors(path: Path, allow_nonfinite: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises CheckpointError if it is missing or damaged, or
    holds NaN or infinity."""
    try:
        check_tensors_header(path)
        tensors = safetensors.torch.load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, UntrustedError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not allow_nonfinite and (names := nonfinite(tensors)):
        raise CheckpointError(
            f"{path}: {names[0]!r} holds NaN or infinity; take an earlier model, or look at this "
            "one with: speechkit info --allow-nonfinite"
        )
    return tensors


def nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or infinity."""
    # for 8-bit floats torch checks this only in float32
    return [
        name
        for name, x in tensors.items()
        if (x.is_floating_point() and not x.float().isfinite().all())
        or (x.is_complex() and not x.isfinite().all())
    ]


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file; raises OSError like for any other file."""
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    # save_file raises its own errors, and makes the file unreadable for other users
    path.write_bytes(safetensors.torch.save(tensors, metadata))


@contextmanager
def model_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, whose files move to the model folder `path` at the end.

    Raises CheckpointError if `path` is neither a model folder nor empty.
    """
    _check_ours(path)
    with atomic_folder(path, own=(CONFIG, WEIGHTS, PLAN, TRANSFORMS, *STATE)) as folder:
        yield folder


def _check_ours(path: Path) -> None:
    recover(path)
    if path.exists() and not (path.is_dir() and (_is_ours(path) or not any(path.iterdir()))):
        raise CheckpointError(f"{path} exists and is not a model folder; choose another path")


def _is_ours(folder: Path) -> bool:
    """True if a folder has the files of `write_model`; other folders may have a config.json too."""
    try:
        stored = read_json(folder / CONFIG)
    except (OSError, UntrustedError):
        return False
    return isinstance(stored, dict) and {"format", "speechkit", "config"} <= set(stored)


def _warn_of_older(folder: Path, stored: dict[str, Any]) -> None:
    """Warns of packages that are older than those used to make the model."""
    made = {name: origin.get("version", "") for name, origin in stored["plugins"].items()}
    installed = registry().plugins()
    for plugin, version in {CORE: str(stored.get("speechkit", "")), **made}.items():
        here = installed.get(plugin, "")
        if NUMBERS.fullmatch(here) and NUMBERS.fullmatch(version) and _older(here, version):
            ours = DISTRIBUTION if plugin == CORE else f"speechkit-{plugin}" * (plugin in OURS)
            hint = f"; type: pip install -U {ours}" if ours else ""
            log.warning(
                f"{folder} was made with {ours or plugin} {version}; {here} is installed, which is "
                f"older and may compute something else{hint}"
            )


def _older(one: str, other: str) -> bool:
    return [int(n) for n in one.split(".")] < [int(n) for n in other.split(".")]


def _check_plugins(folder: Path, stored: dict[str, Any]) -> None:
    present = registry().plugins()
    for plugin, origin in stored["plugins"].items():
        if plugin not in present:
            raise PluginError(f"{folder} was made with plugin {_missing(plugin, origin)}")


def _net_of(config: Net) -> Spec:
    """The component of a config's class; another plugin may have one of the same name."""
    nets = registry().components("net")
    own = (entry.qualified_name for entry in nets if entry.factory() is type(config))
    return Spec(next(own, config.kind))


def _read_net(folder: Path, stored: dict[str, Any]) -> Net:
    """The config; short names that several plugins offer are those of the plugins that made it."""
    plugins, data = stored["plugins"], stored["config"]
    kind: Any = AnyNet
    if isinstance(data, dict) and isinstance(data.get("kind"), str):
        name = registry().qualified("net", Spec(data["kind"]), plugins).name
        if name != data["kind"]:
            kind = registry().find("net", name).factory()
    config: Net = from_dict(kind, data, str(folder / CONFIG))
    return config.qualified(plugins)


def _check_components(folder: Path, config: Net) -> None:
    try:
        for _ in registry().named([*config.components(), ("task", Spec.parse(config.task))]):
            pass
    except ComponentError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _missing(plugin: str, origin: dict[str, str]) -> str:
    if "file" in origin:
        return (
            f"{plugin!r}, a Python file that is not loaded; add --plugin {plugin}.py with its "
            "path, or set SPEECHKIT_PLUGINS to that"
        )
    version = f" {origin['version']}" if "version" in origin else ""
    of = f" of {origin['distribution']}" if "distribution" in origin else ""
    return f"{plugin!r}{version}{of}, which is not installed; {how_to_get(plugin)}"
