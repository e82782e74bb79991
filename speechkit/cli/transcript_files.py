"""Writes results in one of the formats to stdout or into a folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from speechkit.cli.output import say
from speechkit.cli.recordings import Recordings
from speechkit.errors import ConfigError
from speechkit.io.files import atomic_file
from speechkit.text.timeline import Recording

ONE_FILE = ("srt", "vtt", "audacity", "textgrid")
"""Formats that cannot hold the name of a recording."""
SUFFIXES = {"text": "txt", "audacity": "txt", "textgrid": "TextGrid"}
"""Suffixes that differ from the name of the format."""


@dataclass(frozen=True)
class Output:
    """A format, and the folder that gets a file for each recording; None for stdout.

    Raises ConfigError if results would mix on stdout or overwrite files.
    """

    form: str
    folder: Path | None
    recordings: Recordings

    def __post_init__(self) -> None:
        count, each = len(self.recordings.names), self.recordings.channels == "each"
        if self.folder is None and self.form in ONE_FILE and (each or count > 1):
            given = "--channel each" if each else f"{count} recordings"
            raise ConfigError(
                f"{self.form} holds one recording and was given {given}; write them to --out DIR"
            )
        for path, name in self.recordings.names.items():
            self._file(Recording(path, name, 1))

    def write(self, recording: Recording, content: str, shown: str) -> None:
        """Writes one result into the folder, or to stdout; there, text is printed as `shown`."""
        if file := self._file(recording):
            with atomic_file(file) as part:
                # a name may not be UTF-8; it is written with the escapes of JSON
                part.write_text(content, "utf-8", errors="backslashreplace", newline="\n")
        elif self.form == "text":
            say(shown)
        else:
            print(content, end="", flush=True)

    def _file(self, recording: Recording) -> Path | None:
        if self.folder is None:
            return None
        suffix = SUFFIXES.get(self.form, self.form)
        return new_file(self.folder, f"{self.recordings.file_name(recording)}.{suffix}")


def new_file(folder: Path, name: str) -> Path:
    """The path of a new file; raises ConfigError if it exists."""
    file = folder / name
    # what a person wrote down often lies beside a recording
    # nor may a link that leads to nothing yet name a file elsewhere
    if os.path.lexists(file):
        raise ConfigError(f"{file} is there already; move it or name another folder")
    return file


def refuse_input(out: Path, *inputs: Path | None) -> None:
    """Raises ConfigError if a file to write is one of the inputs."""
    for path in inputs if out.exists() else ():
        if path is not None and path.exists() and out.samefile(path):
            raise ConfigError(f"{out} is an input; choose another file to write")


def refuse_other_kind(out: Path, *suffixes: str) -> None:
    """Raises ConfigError if a file to write exists and has none of the suffixes of its kind.

    Then an earlier run of the command did not write it.
    """
    if out.is_file() and not out.name.endswith(suffixes):
        raise ConfigError(
            f"{out} is there and does not end in {suffixes[0]}, so it is not replaced; "
            "give another name"
        )
