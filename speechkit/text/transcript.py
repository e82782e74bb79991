"""Transcripts with times, and their file formats: text, JSON, subtitles, CTM and labels."""

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from speechkit.events import Word, rounded
from speechkit.text.timeline import Recording, Stretch, audacity, srt, textgrid, vtt

LINE, LINES = 42, 2
"""Characters in a line of a subtitle, and lines in a subtitle, as broadcasters use them."""
LONGEST_S = 7.0
PAUSE_S = 0.8
"""The longest duration of a subtitle, and the silence that ends one."""


@dataclass(frozen=True)
class Transcript:
    """The words spoken in `duration_s` seconds of sound, and the characters of each."""

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

    A subtitle ends at a pause of `PAUSE_S`, before `LONGEST_S`, or where its words need more than
    `LINES` lines of `LINE` characters. A longer word has its own line.
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


def _lines(words: Sequence[Word]) -> list[str]:
    text = " ".join(word.text for word in words)
    return textwrap.wrap(text, LINE, break_long_words=False, break_on_hyphens=False)


def _text(transcript: Transcript, recording: Recording) -> str:
    return transcript.text + "\n"


def _json(transcript: Transcript, recording: Recording) -> str:
    row = {"audio_filepath": str(recording.path), "channel": recording.channel}
    return json.dumps({**row, **to_row(transcript)}, ensure_ascii=False) + "\n"


def _srt(transcript: Transcript, recording: Recording) -> str:
    return srt(_cues(transcript))


def _vtt(transcript: Transcript, recording: Recording) -> str:
    return vtt(_cues(transcript))


def _ctm(transcript: Transcript, recording: Recording) -> str:
    """NIST's conversation time marked file: recording, channel, start, duration, word, score."""
    lines = []
    for word in transcript.words:
        # times are rounded first, so that no word reaches into the next
        start_s, end_s = round(word.start_s, 3), round(word.end_s, 3)
        lines.append(
            f"{recording.word} {recording.number} {start_s:.3f} {end_s - start_s:.3f} "
            f"{word.text} {word.score:.4f}\n"
        )
    return "".join(lines)


def _textgrid(transcript: Transcript, recording: Recording) -> str:
    return textgrid(_words(transcript), "words", transcript.duration_s)


def _audacity(transcript: Transcript, recording: Recording) -> str:
    return audacity(_words(transcript))


def _cues(transcript: Transcript) -> Iterator[Stretch]:
    for start_s, end_s, lines in subtitles(transcript.words):
        yield start_s, end_s, "\n".join(lines)


def _words(transcript: Transcript) -> Iterator[Stretch]:
    for word in transcript.words:
        yield word.start_s, word.end_s, word.text


FORMATS: Mapping[str, Callable[[Transcript, Recording], str]] = {
    "text": _text,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
    "ctm": _ctm,
    "textgrid": _textgrid,
    "audacity": _audacity,
}
"""Each format by name: `f(transcript, recording)` → the content of a file."""
