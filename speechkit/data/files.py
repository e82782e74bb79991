"""Finds recordings: files given by name, and those in given folders."""

import os
from collections.abc import Iterable
from pathlib import Path

from speechkit.errors import AudioError

AUDIO_SUFFIXES = frozenset(
    f".{suffix}"
    for line in (
        "wav flac ogg oga opus mp3 sph aif aiff au caf w64",
        "m4a m4b mp4 mov 3gp webm mka mkv aac wma amr",
    )
    for suffix in line.split()
)
"""The suffixes of recordings in a folder, in lower case; upper case is accepted too."""


def find_audio(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The given files, and the recordings in and below each given folder, sorted by name.

    Hidden files, hidden folders and links to folders are left out. Raises AudioError for a folder
    that holds no recording or cannot be read.
    """
    found: list[Path] = []
    for given in map(Path, paths):
        if not given.is_dir():
            found.append(given)
            continue
        inside = sorted(_walk(given))
        if not inside:
            raise AudioError(
                f"no recordings in {given}; give a folder of {', '.join(sorted(AUDIO_SUFFIXES))}"
            )
        found += inside
    return found


def _walk(folder: Path) -> Iterable[Path]:
    try:
        for root, folders, names in os.walk(folder, onerror=_refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(root, name) for name in names if not name.startswith(".")):
                if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
                    yield path
    except OSError as error:
        raise AudioError(
            f"cannot read the folder {error.filename}: {error.strerror}; give files in it one by "
            "one, or ask for the right to read it"
        ) from error


def _refuse(error: OSError) -> None:
    raise error
