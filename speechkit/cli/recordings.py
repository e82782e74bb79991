"""What every command that takes AUDIO... does over recordings: names, channels, answers, errors."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TypeVar

import typer

from speechkit.cli.options import Channels
from speechkit.cli.output import complain
from speechkit.errors import AudioError, ConfigError
from speechkit.timeline import Recording

T = TypeVar("T")


def in_order(
    command: str, audio: list[Path], model: str, default: str, rest: str = ""
) -> tuple[list[Path], str]:
    """The recordings and the model, where MODEL may come first as it once did; a note says how it
    is typed, `rest` being what follows."""
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
    """Whether a path that stands where recordings do is a model folder or a bundled model."""
    from speechkit.card import bundled_folders
    from speechkit.checkpoint import CONFIG, WEIGHTS

    if path.is_dir():
        return all((path / name).is_file() for name in (CONFIG, WEIGHTS))
    return not path.exists() and str(path) in {folder.name for folder in bundled_folders()}


class Recordings:
    """The recordings that a command was given, each under a name of its own."""

    def __init__(self, audio: Sequence[Path], channels: Channels) -> None:
        self.names, self.channels = names_of(audio), channels

    def each(self, answer: Callable[..., T]) -> Iterator[tuple[Recording, T]]:
        """`answer(source, channel=)` for every one that can be read; then what is wrong with the
        others, and exit code 1."""
        errors: list[AudioError] = []
        try:
            for path in self.names:
                try:
                    for recording in self._channels(path):
                        yield recording, answer(path, channel=recording.channel)
                except AudioError as error:
                    errors.append(error)
        finally:
            for unread in errors:
                complain("error", unread)
        if errors:
            raise typer.Exit(1)

    def file_name(self, recording: Recording) -> str:
        """What a recording's files are called, without suffix."""
        each = self.channels == "each"
        return f"{recording.name}.{recording.channel}" if each else recording.name

    def label(self, recording: Recording) -> str:
        """What a recording is called for a person."""
        each = self.channels == "each"
        return f"{recording.path} channel {recording.channel}" if each else str(recording.path)

    def _channels(self, path: Path) -> list[Recording]:
        from speechkit.data.audio import channel_count

        name, channels = self.names[path], self.channels
        if channels != "each":
            return [Recording(path, name, channels)]
        return [Recording(path, name, n + 1) for n in range(channel_count(path))]


def names_of(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each recording: its stem, with its suffix or its folders where others have it.

    Names differ in more than capitals and white space, so that they differ as files and as words.
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
    return "-".join([*path.absolute().parts[1:-1][-depth:][:depth], path.stem])


def _name(path: Path, depth: int) -> str:
    return _stem(path, depth) + path.suffix


def _key(name: str) -> str:
    return "_".join(name.split()).casefold()
