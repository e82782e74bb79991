"""A model as a folder: `model.safetensors` and `config.json`, never a pickle."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
from pydantic import Discriminator
from safetensors import SafetensorError

from speechkit.card import CARD, ModelCard, bundled_folders
from speechkit.component import Spec, did_you_mean
from speechkit.config import from_dict, to_dict, write_json
from speechkit.errors import CheckpointError, ComponentError, PluginError
from speechkit.models import MarbleNet, MatchboxNet, Model, Net, QuartzNet, build
from speechkit.models.model import refuse_prepared
from speechkit.plugins import DISTRIBUTION, registry
from speechkit.untrusted import read_json

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"

AnyNet = Annotated[QuartzNet | MatchboxNet | MarbleNet, Discriminator("kind")]
"""A config of any family, told apart by `kind`."""


def save(model: Model, path: Path | str, card: ModelCard | None = None) -> None:
    """Writes the model and its card to a folder, which appears whole or not at all."""
    refuse_prepared(model, "save")
    with whole_folder(Path(path)) as folder:
        write_model(model, folder)
        if card is not None:
            write_json(folder / CARD, to_dict(card))


def write_model(model: Model, folder: Path) -> None:
    """Writes weights and config into an existing folder."""
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    write_json(
        folder / CONFIG,
        {
            "format": FORMAT,
            "speechkit": metadata.version(DISTRIBUTION),
            "behaviour": model.config.behaviour,
            "config": to_dict(model.config),
            "plugins": registry().used_by(model.config.components()),
            "labels": list(model.labels),
            "sample_rate": model.sample_rate,
        },
    )


def load(path: Path | str) -> Model:
    """The model in a folder, or a bundled one by name (`digits`), ready for evaluation."""
    folder = find(path)
    stored = read_config(folder)
    config = from_dict(AnyNet, stored["config"], str(folder / CONFIG))
    _check_plugins(folder, stored, config)
    model = build(config)
    tensors = read_tensors(folder / WEIGHTS)
    own = model.state_dict()
    for name, value in own.items():
        if name not in tensors:
            raise CheckpointError(
                f"{folder / WEIGHTS} lacks {name!r}; it is not this config's model"
            )
        if tensors[name].shape != value.shape:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {name!r} has shape {list(tensors[name].shape)}, "
                f"the config asks for {list(value.shape)}"
            )
    if unknown := sorted(set(tensors) - set(own)):
        raise CheckpointError(f"{folder / WEIGHTS} holds {unknown[0]!r}, unknown to its config")
    model.load_state_dict(tensors)
    return model.eval()


def find(path: Path | str) -> Path:
    """The folder of a model given by path or bundled name."""
    folder = Path(path)
    if folder.is_dir():
        if (folder / CONFIG).is_file():
            return folder
        raise CheckpointError(f"{folder} has no {CONFIG}; give a folder written by speechkit")
    bundled = {entry.name: entry for entry in bundled_folders()}
    if str(path) in bundled:
        return bundled[str(path)]
    raise CheckpointError(f"no model folder {str(path)!r}. {did_you_mean(str(path), bundled)}")


def read_config(folder: Path) -> dict[str, Any]:
    """The stored description of a model folder."""
    try:
        stored = read_json(folder / CONFIG)
        if stored["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} has format {stored['format']}; this version reads {FORMAT}: "
                f"pip install -U {DISTRIBUTION}"
            )
        if not isinstance(stored["plugins"], dict):
            raise TypeError("plugins: not an object")
        return {"config": stored["config"], "plugins": stored["plugins"], **stored}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is not a model description: {error!r}") from error


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file; CheckpointError where it is missing or damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` once the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not (
        path.is_dir() and ((path / CONFIG).exists() or not any(path.iterdir()))
    ):
        raise CheckpointError(f"{path} exists and is not a model folder; choose another path")
    around = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    # mkdtemp's own folder is closed to other users, one inside it is as open as any
    new = around / "new"
    new.mkdir()
    try:
        yield new
        if path.exists():
            os.replace(path, around / "old")
        os.replace(new, path)
    finally:
        shutil.rmtree(around, ignore_errors=True)


def mend_folder(path: Path) -> None:
    """Ends what a `whole_folder` for `path` was doing when its process was killed."""
    for around in path.parent.glob(f".{path.name}.*"):
        # the old folder steps aside only for a new one that is whole
        if not path.exists() and (around / "old").exists():
            os.replace(around / "new", path)
        shutil.rmtree(around)


def _check_plugins(folder: Path, stored: dict[str, Any], config: Net) -> None:
    present = registry().plugins()
    for plugin, version in stored["plugins"].items():
        if plugin not in present:
            raise PluginError(
                f"{folder} was made with plugin {plugin!r} {version}, which is not installed; "
                f"type: pip install speechkit-{plugin}"
            )
    for kind, spec in config.components():
        _check_component(folder, kind, spec)


def _check_component(folder: Path, kind: str, spec: Spec) -> None:
    try:
        registry().find(kind, spec.name)
    except ComponentError as error:
        raise CheckpointError(f"{folder}: {error}") from error
