"""What was said and when, and how it is written down: text, JSON, subtitles and CTM."""

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from speechkit.events import Word, rounded

LINE, LINES = 42, 2
"""Characters of a subtitle's line, and its lines, as broadcasters have them."""
LONGEST_S = 7.0
PAUSE_S = 0.8
"""How long a subtitle stays at most, and the silence that ends one."""


@dataclass(frozen=True)
class Transcript:
    """What was said in `duration_s` seconds of sound: its words, and the characters of each."""

    text: str
    words: tuple[Word, ...] = ()
    characters: tuple[tuple[Word, ...], ...] = ()
    duration_s: float = 0.0


def to_row(transcript: Transcript) -> dict[str, object]:
    """The transcript as a JSON object, times in seconds."""
    row: dict[str, object] = rounded(asdict(transcript))
    return row


def subtitles(words: Iterable[Word]) -> Iterator[tuple[float, float, list[str]]]:
    """Start, end and lines of each subtitle.

    One ends at a pause of `PAUSE_S`, before `LONGEST_S`, or where its words need more than `LINES`
    lines of `LINE` characters; a longer word has a line for itself.
    """
    cue: list[Word] = []
    for word in words:
        if cue and (
            word.start_s - cue[-1].end_s >= PAUSE_S
            or word.end_s - cue[0].start_s > LONGEST_S
            or len(_lines([*cue, word])) > LINES
        ):
            yield cue[0].start_s, cue[-1].end_s, _lines(cue)
            cue = []
        cue.append(word)
    if cue:
        yield cue[0].start_s, cue[-1].end_s, _lines(cue)


def clock(time_s: float, mark: str = ",") -> str:
    """Hours, minutes, seconds and, after the `mark`, milliseconds: `00:01:02,500`."""
    minutes, ms = divmod(round(time_s * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{mark}{ms % 1000:03}"


def _lines(words: Sequence[Word]) -> list[str]:
    text = " ".join(word.text for word in words)
    return textwrap.wrap(text, LINE, break_long_words=False, break_on_hyphens=False)


def _text(transcript: Transcript, name: str) -> str:
    return transcript.text + "\n"


def _json(transcript: Transcript, name: str) -> str:
    return json.dumps({"audio_filepath": name, **to_row(transcript)}, ensure_ascii=False) + "\n"


def _srt(transcript: Transcript, name: str) -> str:
    """SubRip."""
    return "".join(
        f"{number}\n{clock(start_s)} --> {clock(end_s)}\n" + "\n".join(lines) + "\n\n"
        for number, (start_s, end_s, lines) in enumerate(subtitles(transcript.words), start=1)
    )


def _vtt(transcript: Transcript, name: str) -> str:
    """WebVTT (W3C)."""
    return "WEBVTT\n\n" + "".join(
        f"{clock(start_s, '.')} --> {clock(end_s, '.')}\n"
        + escape("\n".join(lines), quote=False)
        + "\n\n"
        for start_s, end_s, lines in subtitles(transcript.words)
    )


def _ctm(transcript: Transcript, name: str) -> str:
    """NIST's conversation time marked file: recording, channel, start, duration, word, score."""
    recording = "_".join(Path(name).stem.split())
    lines = []
    for word in transcript.words:
        # of rounded times, so that no word reaches into the next
        start_s, end_s = round(word.start_s, 3), round(word.end_s, 3)
        lines.append(
            f"{recording} 1 {start_s:.3f} {end_s - start_s:.3f} {word.text} {word.score:.4f}\n"
        )
    return "".join(lines)


FORMATS: Mapping[str, Callable[[Transcript, str], str]] = {
    "text": _text,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
    "ctm": _ctm,
}
"""Each format by name: `f(transcript, name of the recording)` → what a file of it holds."""
ONE_FILE = ("srt", "vtt")
"""Formats that have no place for the name of a recording."""
