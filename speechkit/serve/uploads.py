"""The recording and the fields of a form."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from speechkit.data import read_sample_blocks, sample_rate_of
from speechkit.serve.errors import ApiError

MAX_FIELDS = 32
MAX_FIELD_BYTES = 2**18
"""Of the form, besides the file."""
READ_S = 60.0
"""The duration that is decoded at a time."""


class Sound:
    """An uploaded file, which messages call `file`."""

    name = "file"

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@dataclass(frozen=True)
class Form:
    """A recording, the name it had with the client, and the other fields."""

    sound: Any
    file_name: str
    fields: FormData

    def text(self, name: str) -> str | None:
        """A field, None where it is missing or empty; raises ApiError for a second file."""
        value = self.fields.get(name)
        if isinstance(value, UploadFile):
            raise ApiError(400, f"{name} is a file; send it as text", "wrong_field", name)
        return value or None

    def choice(self, name: str, *choices: str) -> str:
        """A field that has one of some values, the first by default; raises ApiError."""
        value = self.text(name) or choices[0]
        if value not in choices:
            message = f"{name} is {value!r:.80}, expected {', '.join(choices)}"
            raise ApiError(400, message, "wrong_field", name)
        return value


@asynccontextmanager
async def uploaded(request: Request) -> AsyncIterator[Form]:
    """The form of a request; large files are on disk, and removed after the block."""
    async with request.form(
        max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    ) as fields:
        file = fields.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(
                400,
                "there is no file; send multipart/form-data with the recording in the field file",
                "missing_file",
                "file",
            )
        yield Form(Sound(file.file), file.filename or "file", fields)


def duration_s(sound: Any, most_s: float) -> float:
    """The duration of a recording, which is decoded for it; raises ApiError beyond `most_s`."""
    rate = sample_rate_of(sound)
    samples = 0
    for block in read_sample_blocks(sound, target_rate=rate, block_s=READ_S):
        samples += len(block)
        if samples > most_s * rate:
            raise ApiError(
                413, f"file is longer than {most_s:g} s; send it in parts", "too_long", "file"
            )
    return samples / rate
