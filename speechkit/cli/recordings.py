"""Runs a command over recordings: names, channels, results and errors."""

import io
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import typer

from speechkit.cli.options import Channels
from speechkit.cli.output import complain
from speechkit.errors import AudioError, ConfigError
from speechkit.limits import MAX_KEPT_BYTES
from speechkit.text.timeline import Recording

if TYPE_CHECKING:
    from speechkit.data import RawFormat

STDIN = "-"
T = TypeVar("T")


def in_order(
    command: str, audio: list[Path], model: str, default: str, rest: str = ""
) -> tuple[list[Path], str]:
    """The recordings and the model, which formerly came first.

    Then a note shows the current form of the command; `rest` is its end.
    """
    first, *others = audio
    if model != default or not is_model(first):
        return audio, model
    if not others:
        raise ConfigError(
            f"{first} is a model; give recordings: speechkit {command} AUDIO... --model {first}"
        )
    shown = " ".join(map(shlex.quote, map(str, others[:1]))) + (" ..." if len(others) > 1 else "")
    complain(
        "note",
        f"recordings come first now; type: speechkit {command} {shown} --model "
        f"{shlex.quote(str(first))}{rest}",
    )
    return others, str(first)


def is_model(path: Path) -> bool:
    """True if a path given as a recording is a model folder or the name of a bundled model."""
    from speechkit.card import bundled_folders
    from speechkit.io.folders import CONFIG, WEIGHTS

    if path.is_dir():
        return all((path / name).is_file() for name in (CONFIG, WEIGHTS))
    return not path.exists() and str(path) in {folder.name for folder in bundled_folders()}


class Recordings:
    """The recordings of a command, also those in folders, each with a unique name.

    Standard input is read as it arrives, or kept if it is read `again` or for each channel.
    """

    def __init__(
        self,
        audio: Sequence[Path],
        channels: Channels,
        raw: "RawFormat | None",
        again: bool = False,
    ) -> None:
        from speechkit.data import find_audio

        self.names = names_of(find_audio(audio))
        self.channels, self.raw = channels, raw
        self._keeps, self._kept = again or channels == "each", Kept()

    def each(self, answer: Callable[..., T]) -> Iterator[tuple[Recording, T]]:
        """Yields the result of `read` for each readable recording; then prints the errors of the
        others, and the exit code is 1."""
        errors: list[AudioError] = []
        try:
            for path in self.names:
                try:
                    for recording in self._channels(path):
                        yield recording, self.read(recording, answer)
                except AudioError as error:
                    named = str(path) in str(error)
                    errors.append(error if named else AudioError(f"{path}: {error}"))
        finally:
            for unread in errors:
                complain("error", unread)
        if errors:
            raise typer.Exit(1)

    def read(self, recording: Recording, answer: Callable[..., T]) -> T:
        """`answer(source, channel=, raw=)` of a recording."""
        return answer(self._source(recording.path), channel=recording.channel, raw=self.raw)

    def file_name(self, recording: Recording) -> str:
        """The name of a recording's output files, without suffix."""
        each = self.channels == "each"
        return f"{recording.name}.{recording.channel}" if each else recording.name

    def label(self, recording: Recording) -> str:
        """The name of a recording in text output."""
        each = self.channels == "each"
        # a new line in a file's name would begin another result
        name = str(recording.path).replace("\n", "\\n")
        return f"{name} channel {recording.channel}" if each else name

    def _channels(self, path: Path) -> list[Recording]:
        from speechkit.data import channel_count

        name, channels = self.names[path], self.channels
        if channels != "each":
            return [Recording(path, name, channels)]
        count = channel_count(self._source(path), self.raw)
        return [Recording(path, name, n + 1) for n in range(count)]

    def _source(self, path: Path) -> "Path | BinaryIO":
        if str(path) != STDIN:
            return path
        if not self._keeps:
            return standard_input()
        if not self._kept.getbuffer().nbytes:
            self._kept.write(standard_input().read(MAX_KEPT_BYTES + 1))
            if self._kept.tell() > MAX_KEPT_BYTES:
                raise AudioError(
                    f"standard input has more than {MAX_KEPT_BYTES:,} bytes, which are kept to be "
                    "read more than once; give a file"
                )
        self._kept.seek(0)
        return self._kept


def standard_input() -> "BinaryIO":
    """The bytes of standard input; raises AudioError if it is closed."""
    if sys.stdin is None:
        raise AudioError("standard input is closed; pipe sound into it or give a file")
    return sys.stdin.buffer


class Kept(io.BytesIO):
    """The content of standard input, with its name."""

    name = "<stdin>"


def names_of(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each recording: its stem, plus its suffix or folders if others have the same.

    Names differ not only in case and white space, so that they are different files and words.
    """
    given = {os.path.abspath(path): path for path in reversed(paths)}
    waiting = list(reversed(given.values()))
    names: dict[Path, str] = {}
    for depth in range(max(len(path.absolute().parts) for path in waiting)):
        for candidate in (_stem, _name):
            found = {path: candidate(path, depth) for path in waiting}
            taken = Counter(map(_key, (*names.values(), *found.values())))
            names |= {path: name for path, name in found.items() if taken[_key(name)] == 1}
            waiting = [path for path in waiting if path not in names]
    # such as A/x.wav beside a/x.wav
    for path in waiting:
        taken = Counter(map(_key, names.values()))
        numbered = (f"{path.stem}-{number}" for number in count(1))
        names[path] = next(name for name in numbered if not taken[_key(name)])
    return {path: names[path] for path in paths if path in names}


def _stem(path: Path, depth: int) -> str:
    if str(path) == STDIN:
        return "stdin"
    return "-".join([*path.absolute().parts[1:-1][-depth:][:depth], path.stem])


def _name(path: Path, depth: int) -> str:
    return _stem(path, depth) + path.suffix


def _key(name: str) -> str:
    return "_".join(name.split()).casefold()
