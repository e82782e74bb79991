"""Gets a published model: downloads its archive, imports it and makes its plan, only once."""

import speechkit.torch_required

import hashlib
import logging
from pathlib import Path

from speechkit.card import ModelCard, bundled_models
from speechkit.checkpoint import save
from speechkit.component import did_you_mean
from speechkit.errors import CheckpointError
from speechkit.export import export
from speechkit.export.graph import UnexportableError
from speechkit.importers import read_model
from speechkit.io.cache import cache_folder
from speechkit.io.download import DownloadError, Told, download
from speechkit.io.files import atomic_folder, locked
from speechkit.io.folders import PLAN
from speechkit.models.profile import why_not_streamable
from speechkit.plans.engine import library
from speechkit.published import Published, published

log = logging.getLogger(__name__)


def row_of(name: str) -> Published:
    """The row of a published model; raises CheckpointError if it is bundled or unknown."""
    if name in bundled_models():
        raise CheckpointError(f"{name} is bundled, so there is nothing to download; use its name")
    if name not in published():
        hint = did_you_mean(name, published(), also=bundled_models())
        raise CheckpointError(f"no published model {name!r}. {hint}")
    return published()[name]


def pull(
    name: str, told: Told = lambda done_bytes, size_bytes: None, mirror: str | None = None
) -> Path:
    """The folder of a published model in the cache; downloads the model if it is not there.

    `told` is called with the number of bytes so far and the size. `mirror` is the address of a
    folder with the archives, used instead of the publisher's. The next call continues an
    interrupted download. Raises CheckpointError with one line.
    """
    row = row_of(name)
    downloads = cache_folder() / "downloads"
    downloads.mkdir(mode=0o700, parents=True, exist_ok=True)
    # a second process waits, and then finds the model
    with locked(downloads, name, wait=True):
        if not row.is_pulled:
            archive = downloads / f"{name}.nemo"
            if not archive.is_file():
                _download(row, archive, told, mirror)
            _import(row, archive)
            archive.unlink()
    return row.folder


def _download(row: Published, archive: Path, told: Told, mirror: str | None) -> None:
    url = row.url if mirror is None else f"{mirror.rstrip('/')}/{Path(row.url).name}"
    try:
        download(url, archive, row.size_bytes, row.sha256, told)
    except DownloadError as error:
        raise CheckpointError(f"cannot get {row.name}: {error}") from error


def _import(row: Published, archive: Path) -> None:
    """Writes the model's folder: weights, config, card and, if the model streams, its plan."""
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        model = read_model(archive)
    except CheckpointError:
        # a broken archive is not kept for the next call
        archive.unlink()
        raise
    card = ModelCard(
        purpose=row.purpose,
        data=(f"{row.url}, SHA-256 {digest}", row.page),
        licence=row.licence,
        commands=(f"speechkit pull {row.name}",),
    )
    with atomic_folder(row.folder) as part:
        save(model, part, card)
        if why_not_streamable(model) or isinstance(library(), str):
            return
        try:
            export(part, part / PLAN, "native")
        except UnexportableError as error:
            log.warning(f"{row.name} has no plan and runs in torch: {error}")
