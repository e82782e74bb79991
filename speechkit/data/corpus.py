"""Getting a public corpus: from a folder at hand, or from its official address."""

import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from speechkit.errors import AudioError


def download(url: str, folder: Path) -> Path:
    """The folder that holds the unpacked tar archive at `url`; done once, whole or not at all."""
    target = folder / Path(url).name.partition(".tar")[0]
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f".{Path(url).name}.part"
    unpacked = folder / f".{target.name}.part"
    try:
        with urllib.request.urlopen(url) as response, archive.open("wb") as file:
            shutil.copyfileobj(response, file)
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        unpacked.rename(target)
    except (urllib.error.URLError, tarfile.TarError, OSError) as error:
        raise AudioError(
            f"cannot get {url}: {error}; fetch it yourself and give its folder as the source"
        ) from error
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(unpacked, ignore_errors=True)
    return target
