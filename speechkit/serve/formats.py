"""Transcripts as responses in the formats of OpenAI's API."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from speechkit.text import transcript as files
from speechkit.text.timeline import Recording
from speechkit.text.transcript import Transcript, subtitles

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")


def formatted(
    transcript: Transcript, form: str, granularities: Sequence[str], name: str
) -> Response:
    """The response in a format; `granularities` are word or segment, segments if there are none."""
    if form == "json":
        return JSONResponse({"text": transcript.text})
    if form == "verbose_json":
        return JSONResponse(_verbose(transcript, granularities or ["segment"]))
    return PlainTextResponse(files.FORMATS[form](transcript, Recording.of(name)))


def _verbose(transcript: Transcript, granularities: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = files.to_row(transcript)
    found = {
        "task": "transcribe",
        # models do not detect it
        "language": "unknown",
        "duration": row["duration_s"],
        "text": row["text"],
    }
    if "segment" in granularities:
        found["segments"] = [
            {"id": number, "start": start_s, "end": end_s, "text": " ".join(lines)}
            for number, (start_s, end_s, lines) in enumerate(subtitles(transcript.words))
        ]
    if "word" in granularities:
        found["words"] = [
            {
                "word": word["text"],
                "start": word["start_s"],
                "end": word["end_s"],
                "score": word["score"],
            }
            for word in row["words"]
        ]
    return found
