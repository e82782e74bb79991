"""Text to labels and back: files, normalisation, encoding and greedy CTC decoding."""

import gzip
import os
import string
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speechkit.component import did_you_mean
from speechkit.errors import ConfigError, ManifestError, SpeechkitError
from speechkit.limits import MAX_JSON_BYTES, MAX_TEXT_BYTES

ENGLISH_LABELS: tuple[str, ...] = (" ", *string.ascii_lowercase, "'")
"""Space, a…z and the apostrophe; the CTC blank follows as index 28."""

_ENGLISH_SPELLINGS = str.maketrans(
    {"’": "'", "ʼ": "'", "´": "'", "`": "'", "&": " and ", "+": " plus ", "%": " percent "}
)


@dataclass(frozen=True)
class Spelling:
    """The case of the labels, None for both, and whether their accents are composed (NFC)."""

    case: Literal["lower", "upper"] | None
    form: Literal["NFC", "NFD"]

    @classmethod
    def of(cls, labels: Iterable[str]) -> "Spelling":
        """The spelling of `labels`: NFD if accents are labels and no letter carries one."""
        text = "".join(labels)
        case: Literal["lower", "upper"] | None = None
        if text.lower() != text.upper():
            case = "lower" if text == text.lower() else "upper" if text == text.upper() else None
        decomposed = any(map(unicodedata.combining, text))
        decomposed = decomposed and unicodedata.is_normalized("NFD", text)
        return cls(case, "NFD" if decomposed else "NFC")

    def __call__(self, text: str) -> str:
        """`text` in this case and form."""
        cased = text.lower() if self.case == "lower" else text
        return self.composed(text.upper() if self.case == "upper" else cased)

    def composed(self, text: str) -> str:
        """`text` in this form; its case is not changed."""
        return text if text.isascii() else unicodedata.normalize(self.form, text)


def read_text(path: str | os.PathLike[str]) -> str:
    """The lines of a file in one string; see `lines_of`."""
    return "\n".join(lines_of(path))


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a file in a list; see `lines_of`. The whole file is checked."""
    return list(lines_of(path))


def lines_of(path: str | os.PathLike[str]) -> Iterator[str]:
    """The lines of a UTF-8 file, `.gz` too, without a byte order mark and line ends.

    Line ends are those of Unix, Windows and old Macs only, unlike those of `str.splitlines`.
    Raises ManifestError where the file cannot be opened, and as `names.txt:3: ...` where it is not
    UTF-8 or beyond `speechkit.limits`.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    number = size = 0
    try:
        # the error is raised below, where the line number is known
        with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as file:
            while line := file.readline(MAX_JSON_BYTES + 1):
                number += 1
                size += len(line)
                if len(line) > MAX_JSON_BYTES or size > MAX_TEXT_BYTES:
                    raise ManifestError(
                        f"{path}:{number}: a line of more than {MAX_JSON_BYTES:,} characters or a "
                        f"file of more than {MAX_TEXT_BYTES:,}; split it"
                    )
                if not (line.isascii() or is_unicode(line)):
                    raise ManifestError(f"{path}:{number}: not UTF-8; save the file as UTF-8 text")
                yield line.removesuffix("\n")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ManifestError(
            f"{path}:{number + 1}: not a whole gzip file: {error}; copy it again"
        ) from error
    except OSError as error:
        raise ManifestError(f"cannot open {path}: {error.strerror or error}") from error


def normalize(text: str, name: str = "english", labels: Sequence[str] = ENGLISH_LABELS) -> str:
    """`text` under the normalisation `name`, checked to consist of `labels`.

    "english" lower-cases, strips accents, spells out & + and %, keeps the apostrophe, turns other
    punctuation into spaces and collapses spaces; "none" leaves the text as it is. Both compose
    accents as the labels do. Neither expands digits. Raises ManifestError for a character that is
    no label.
    """
    if name not in NORMALIZATIONS:
        raise ConfigError(f"no text normalisation {name!r}. {did_you_mean(name, NORMALIZATIONS)}")
    normalized = Spelling.of(labels).composed(NORMALIZATIONS[name](text))
    encode(normalized, labels, source=text)
    return normalized


def normalized(path: str | os.PathLike[str], name: str, labels: Sequence[str]) -> str:
    """The text of a file under the normalisation `name`; ManifestError as `text.txt:3: ...`."""
    lines = []
    for number, line in enumerate(lines_of(path), start=1):
        try:
            lines.append(normalize(" ".join(line.split()), name, labels))
        except ManifestError as error:
            raise ManifestError(f"{path}:{number}: {error}") from error
    return " ".join(filter(None, lines))


def encode(
    text: str, labels: Sequence[str] = ENGLISH_LABELS, *, source: str | None = None
) -> NDArray[np.int64]:
    """The index in `labels` of each piece of `text`, the longest label first, int64 `[S]`.

    With the labels eight and a…z, "eighteen" is eight, e, e, n. Raises ManifestError for text that
    no label matches; the message quotes `source` if it is given.
    """
    index = {label: i for i, label in enumerate(labels)}
    longest = max(map(len, labels), default=0)
    ids, at = [], 0
    while at < len(text):
        for size in range(longest, 0, -1):
            if text[at : at + size] in index:
                break
        else:
            raise ManifestError(
                f"text {source or text!r} has {text[at]!r}, which is no label; "
                f"spell it out, or add it to the labels"
            )
        ids.append(index[text[at : at + size]])
        at += size
    return np.array(ids, np.int64)


def decode(ids: NDArray[np.int64] | Iterable[int], labels: Sequence[str] = ENGLISH_LABELS) -> str:
    """The text of label ids: the inverse of `encode`."""
    ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    for i in ids:
        if not 0 <= i < len(labels):
            raise SpeechkitError(
                f"id {i} is none of {len(labels)} labels; drop blanks and padding before decoding"
            )
    return "".join(labels[i] for i in ids)


def greedy_ctc(log_probs: NDArray[np.float32], lengths: Iterable[int]) -> list[list[int]]:
    """The best label of each frame, repeats collapsed, blanks dropped.

    Shape: log_probs `[B, T, V + 1]` with the blank last, lengths `[B]` in frames; B lists of ids.
    """
    blank = log_probs.shape[2] - 1
    rows = zip(np.asarray(log_probs).argmax(2).tolist(), lengths, strict=True)
    return [collapsed(best[:frames], blank, blank) for best, frames in rows]


def collapsed(best: Iterable[int], last: int, blank: int) -> list[int]:
    """The labels that begin in frames with these best labels, after a frame of `last`."""
    return [label for before, label in pairwise([last, *best]) if label not in (before, blank)]


def is_unicode(text: str) -> bool:
    """True unless the text has half of a surrogate pair, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _english(text: str) -> str:
    # compatibility decomposition splits accents and ligatures, and may yield capitals
    decomposed = unicodedata.normalize("NFKD", text.translate(_ENGLISH_SPELLINGS)).lower()
    return " ".join("".join(map(_english_character, decomposed)).split())


def _english_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Mn", "Cf"):  # accents; invisible marks such as a soft hyphen
        return ""
    return " " if category.startswith("P") and character != "'" else character


NORMALIZATIONS: Mapping[str, Callable[[str], str]] = {"english": _english, "none": str}
"""Each text normalisation by the name that a model stores."""
