"""Downloads public corpora from their official addresses."""

import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from speechkit.errors import AudioError
from speechkit.io.files import atomic_folder


def download(url: str, folder: Path) -> Path:
    """Downloads and unpacks the tar archive at `url` once, atomically; returns its folder."""
    target = folder / Path(url).name.partition(".tar")[0]
    if target.is_dir():
        return target
    try:
        with (
            atomic_folder(target) as unpacked,
            urllib.request.urlopen(url) as response,
            tarfile.open(fileobj=response, mode="r|*") as tar,
        ):
            tar.extractall(unpacked, filter="data")
    except (urllib.error.URLError, tarfile.TarError, OSError) as error:
        raise AudioError(
            f"cannot get {url}: {error}; fetch it yourself and give its folder as the source"
        ) from error
    return target
