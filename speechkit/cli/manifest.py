"""`speechkit manifest`: lists a folder of recordings, with labels from names or a table."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechkit.cli.options import Json
from speechkit.cli.output import complain, show
from speechkit.cli.transcript_files import refuse_input, refuse_other_kind
from speechkit.errors import ConfigError, ManifestError, SpeechkitError

if TYPE_CHECKING:
    from speechkit.data import Utterance

COLUMNS = ("text", "phones", "label", "speaker")
"""The columns of a table besides `audio_filepath`."""
DEV_SHARE = 10
"""One speaker, or recording where none is known, in this many is for development."""

Facts = dict[str, Any]


def manifest(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the recordings are.")],
    labels_from: Annotated[
        str | None,
        typer.Option(
            metavar="folder|stem|FILE.csv",
            help="The name of a recording's folder, what precedes the first _ of its own name, or "
            f"a table: audio_filepath, as from FOLDER, and any of {', '.join(COLUMNS)}.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it, if not to stdout.")
    ] = None,
    dev: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A tenth of the speakers, or of the recordings, goes here and not to --out.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a manifest of the recordings in a folder and below it, with their durations."""
    from speechkit.data import find_audio
    from speechkit.data.manifest import row_of, write_manifest

    if dev is not None and out is None:
        raise ConfigError("--dev was given without --out; add --out FILE for the other recordings")
    for written in (out, dev):
        if written is not None and labels_from is not None:
            refuse_input(written, Path(labels_from))
    facts = reader_of(labels_from, folder)
    recordings = find_audio([folder])
    for written in (out, dev):
        if written is not None:
            refuse_input(written, *recordings)
            refuse_other_kind(written, ".jsonl", ".json")
    found, failed = [], 0
    for path in recordings:
        try:
            found.append(utterance_of(path, facts(path)))
        except SpeechkitError as error:
            complain("error", error)
            failed += 1
    if out is None:
        for utterance in found:
            print(json.dumps(row_of(utterance, Path.cwd()), ensure_ascii=False))
    else:
        parts = {out: found} if dev is None else split(found, folder, out, dev)
        for file, utterances in parts.items():
            write_manifest(file, utterances)
            hours = sum(u.duration_s for u in utterances) / 3600
            labels = sorted({u.label for u in utterances if u.label is not None})
            row = {"out": str(file), "utterances": len(utterances), "hours": hours}
            line = f"{file}: {len(utterances):,} utterances, {hours:.2f} h, {len(labels)} labels"
            show({**row, "labels": labels}, line, as_json)
    if failed:
        raise typer.Exit(1)


def reader_of(labels_from: str | None, folder: Path) -> Callable[[Path], Facts]:
    """A function from a path in `folder` to the label and other facts of its recording."""
    if labels_from is None:
        return lambda path: {}
    if labels_from == "folder":
        return lambda path: _label_of_folder(path, folder)
    if labels_from == "stem":
        return lambda path: {"label": path.stem.partition("_")[0]}
    if labels_from.endswith(".csv"):
        table = read_table(Path(labels_from), folder)
        return lambda path: _row_of_table(path, table, labels_from)
    raise ConfigError(
        f"--labels-from {labels_from!r}: give folder, stem or the name of a .csv file"
    )


def read_table(file: Path, folder: Path) -> dict[Path, Facts]:
    """The rows of a CSV file by the path they name; ManifestError as `labels.csv:3: ...`."""
    from speechkit.text import lines_of

    table: dict[Path, Facts] = {}
    rows = csv.DictReader((f"{line}\n" for line in lines_of(file)), strict=True)
    try:
        columns = rows.fieldnames or []
        if "audio_filepath" not in columns or not set(COLUMNS) & set(columns):
            raise ManifestError(
                f"{file} has the columns {', '.join(columns) or 'none'}; its first line must "
                f"name audio_filepath and any of {', '.join(COLUMNS)}"
            )
        for row in rows:
            path = folder / (row["audio_filepath"] or "")
            if not path.is_file():
                raise ManifestError(f"{file}:{rows.line_num}: no file {path}; correct the path")
            if path in table:
                raise ManifestError(f"{file}:{rows.line_num}: {path} is named twice; drop one")
            table[path] = {column: row[column] for column in COLUMNS if row.get(column)}
    except csv.Error as error:
        raise ManifestError(
            f"{file}:{rows.reader.line_num}: not CSV: {error}; correct it"
        ) from error
    return table


def utterance_of(path: Path, facts: Facts) -> "Utterance":
    """The utterance of a whole recording, with its facts."""
    from speechkit.data import Utterance, audio_duration_s

    duration_s = audio_duration_s(path)
    if duration_s <= 0:
        raise ManifestError(f"{path} is empty; drop it")
    return Utterance(audio=path.absolute(), duration_s=duration_s, **facts)


def split(
    utterances: list["Utterance"], folder: Path, out: Path, dev: Path
) -> dict[Path, list["Utterance"]]:
    """The utterances for `out` and those for `dev`; a speaker is in one of them."""
    parts: dict[Path, list[Utterance]] = {out: [], dev: []}
    for utterance in utterances:
        name = utterance.speaker or utterance.audio.relative_to(folder.absolute()).as_posix()
        chosen = hashlib.sha256(name.encode()).digest()[0] % DEV_SHARE == 0
        parts[dev if chosen else out].append(utterance)
    for file, part in parts.items():
        if not part:
            raise ManifestError(
                f"none of {len(utterances)} recordings is for {file}; leave out --dev, and split "
                "by hand"
            )
    return parts


def _label_of_folder(path: Path, folder: Path) -> Facts:
    if path.parent == folder:
        raise ManifestError(f"{path} is in no folder of {folder}; put it in one named by its label")
    return {"label": path.parent.name}


def _row_of_table(path: Path, table: dict[Path, Facts], name: str) -> Facts:
    if path not in table:
        raise ManifestError(f"{path} is not in {name}; add a line, or move it elsewhere")
    return table[path]
