"""Transcripts as OpenAI's API returns them."""

import math
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from speechkit.events import rounded
from speechkit.text.timeline import Recording
from speechkit.text.transcript import FORMATS, Transcript, subtitles

RESPONSES = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("segment", "word")
MEDIA = {"vtt": "text/vtt"}
LEAST_SCORE = 1e-10


def response(
    transcript: Transcript, form: str, granularities: Sequence[str], file_name: str
) -> Response:
    """A transcript in one of `RESPONSES`; `verbose_json` has words, segments or both."""
    if form == "json":
        return JSONResponse({"text": transcript.text})
    if form == "verbose_json":
        return JSONResponse(verbose(transcript, granularities))
    content = FORMATS[form](transcript, Recording.of(file_name))
    return PlainTextResponse(content, media_type=MEDIA.get(form, "text/plain"))


def verbose(transcript: Transcript, granularities: Sequence[str]) -> dict[str, Any]:
    """Text and duration with the times of words and of segments, which are those of subtitles."""
    row: dict[str, Any] = {"task": "transcribe", "duration": transcript.duration_s}
    row["text"] = transcript.text
    if "segment" in granularities:
        row["segments"] = list(segments(transcript))
    if "word" in granularities:
        row["words"] = [
            {"word": word.text, "start": word.start_s, "end": word.end_s, "score": word.score}
            for word in transcript.words
        ]
    found: dict[str, Any] = _rounded(row)
    return found


def segments(transcript: Transcript) -> list[dict[str, Any]]:
    """The segments of a transcript; `avg_logprob` is the mean ln of its words' scores."""
    rows, words = [], iter(transcript.words)
    for number, (start_s, end_s, lines) in enumerate(subtitles(transcript.words)):
        text = " ".join(lines)
        scores = [next(words).score for _ in text.split()]
        score = sum(math.log(max(LEAST_SCORE, score)) for score in scores) / len(scores)
        rows.append(
            {"id": number, "start": start_s, "end": end_s, "text": text, "avg_logprob": score}
        )
    return rows


def _rounded(value: Any) -> Any:
    """`rounded`, in lists too."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return rounded(value)
