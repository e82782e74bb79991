"""Segments of a recording with their text, in the formats that other tools read."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

Stretch = tuple[float, float, str]
"""Start and end in seconds, and the text, which may have several lines."""


@dataclass(frozen=True)
class Recording:
    """One channel of a file (`-` is standard input) and its name for formats without paths.

    `channel` is a number from 1 on, or the mean of all.
    """

    path: Path
    name: str
    channel: int | Literal["mix"] = "mix"

    @property
    def word(self) -> str:
        """The name as one word, for formats whose fields are separated by spaces."""
        return "_".join(self.name.split())

    @property
    def number(self) -> int:
        """The channel's number, 1 for a mix, as NIST's formats require."""
        return 1 if self.channel == "mix" else self.channel

    @classmethod
    def of(cls, path: Path | str) -> "Recording":
        """The mean of a file's channels, named after the file."""
        return cls(Path(path), Path(path).stem)


def clock(time_s: float, mark: str = ",") -> str:
    """Hours, minutes, seconds and, after the `mark`, milliseconds: `00:01:02,500`."""
    minutes, ms = divmod(round(time_s * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{mark}{ms % 1000:03}"


def srt(stretches: Iterable[Stretch]) -> str:
    """SubRip subtitles."""
    return "".join(
        f"{number}\n{clock(start_s)} --> {clock(end_s)}\n{text}\n\n"
        for number, (start_s, end_s, text) in enumerate(stretches, start=1)
    )


def vtt(stretches: Iterable[Stretch]) -> str:
    """WebVTT (W3C)."""
    return "WEBVTT\n\n" + "".join(
        f"{clock(start_s, '.')} --> {clock(end_s, '.')}\n{escape(text, quote=False)}\n\n"
        for start_s, end_s, text in stretches
    )


def audacity(stretches: Iterable[Stretch]) -> str:
    """A label track of Audacity."""
    return "".join(f"{start_s:.6f}\t{end_s:.6f}\t{text}\n" for start_s, end_s, text in stretches)


def textgrid(stretches: Iterable[Stretch], tier: str, duration_s: float) -> str:
    """A TextGrid of Praat with one tier, whose intervals without text fill the gaps."""
    intervals: list[Stretch] = []
    end_s = 0.0
    for stretch in [*stretches, (duration_s, duration_s, "")]:
        # times are rounded first, so that intervals meet and none is empty
        start_s, until_s = max(end_s, round(stretch[0], 6)), round(stretch[1], 6)
        if start_s > end_s:
            intervals.append((end_s, start_s, ""))
        if until_s > start_s:
            intervals.append((start_s, until_s, stretch[2]))
        end_s = max(end_s, until_s)
    span = f"xmin = 0.000000\nxmax = {end_s:.6f}\n"
    return (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
        f"{span}tiers? <exists>\nsize = 1\nitem []:\nitem [1]:\n"
        f'class = "IntervalTier"\nname = "{tier}"\n{span}intervals: size = {len(intervals)}\n'
        + "".join(
            f"intervals [{number}]:\nxmin = {start_s:.6f}\nxmax = {until_s:.6f}\n"
            f'text = "{_quoted(text)}"\n'
            for number, (start_s, until_s, text) in enumerate(intervals, start=1)
        )
    )


def _quoted(text: str) -> str:
    return text.replace('"', '""')
