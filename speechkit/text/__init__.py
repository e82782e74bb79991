"""Text: its labels, alignment with speech, confidence, and the formats of transcripts."""

from speechkit.text.labels import (
    ENGLISH_LABELS,
    Spelling,
    collapsed,
    decode,
    encode,
    greedy_ctc,
    is_unicode,
    lines_of,
    normalize,
    normalized,
    read_lines,
    read_text,
)

__all__ = [
    "ENGLISH_LABELS",
    "Spelling",
    "collapsed",
    "decode",
    "encode",
    "greedy_ctc",
    "is_unicode",
    "lines_of",
    "normalize",
    "normalized",
    "read_lines",
    "read_text",
]
