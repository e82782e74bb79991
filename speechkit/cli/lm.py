"""`speechkit lm`: estimates a language model from text."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.options import Json
from speechkit.cli.output import show
from speechkit.cli.transcript_files import refuse_input, refuse_other_kind
from speechkit.errors import SpeechkitError


class Normalization(StrEnum):
    """How text is normalised before its words are counted."""

    english = "english"
    none = "none"


def lm(
    texts: Annotated[
        list[Path],
        typer.Argument(
            metavar="TEXT...",
            help="Text files, a sentence a line (.gz too), or .jsonl or .json manifests.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The ARPA file to write (.gz too).")],
    order: Annotated[int, typer.Option(min=1, help="How many words an n-gram has.")] = 3,
    normalization: Annotated[
        Normalization, typer.Option(help="How text is normalised; none leaves it as it is.")
    ] = Normalization.english,
    as_json: Json = False,
) -> None:
    """Estimate an n-gram language model from text, and write it as an ARPA file."""
    from speechkit.decode.kneser_ney import estimate
    from speechkit.decode.ngram import write_arpa

    refuse_input(out, *texts)
    refuse_other_kind(out, ".arpa", ".arpa.gz")
    lines = [line for path in texts for line in sentences(path, normalization)]
    model = estimate(lines, order)
    write_arpa(model, out)
    sizes = [0] * order
    for gram in model.log_probs:
        sizes[gram.count(" ")] += 1
    row = {"out": str(out), "order": order, "sentences": len(lines), "ngrams": sizes}
    counts = ", ".join(f"{size:,} {n}-grams" for n, size in enumerate(sizes, start=1))
    show(row, f"{out}: {counts} from {len(lines):,} sentences", as_json)


def sentences(path: Path, normalization: Normalization) -> Iterator[str]:
    """The normalised lines of a text file, or texts of a manifest, without the empty ones."""
    from speechkit.data import read_manifest
    from speechkit.data.manifest import MANIFEST_SUFFIXES
    from speechkit.text import lines_of, normalize

    if path.suffix in MANIFEST_SUFFIXES:
        utterances = read_manifest(path, check_files=False)
        lines: Iterable[tuple[str, str]] = ((u.where, u.text or "") for u in utterances)
    else:
        lines = ((f"{path}:{n}", line) for n, line in enumerate(lines_of(path), start=1))
    for where, line in lines:
        if not line.strip():
            continue
        try:
            # only the English labels are known here
            text = line if normalization == Normalization.none else normalize(line)
        except SpeechkitError as error:
            raise SpeechkitError(f"{where}: {error}") from error
        if text.strip():
            yield text
