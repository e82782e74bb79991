"""Reads members of a tar archive, plain or gzip, into memory; no file is written."""

import gzip
import posixpath
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from speechkit.errors import CheckpointError
from speechkit.io.untrusted import Limited, UntrustedError, parse_yaml
from speechkit.limits import MAX_ARCHIVE_BYTES, MAX_ARCHIVE_MEMBERS

MOST_HEADER_BYTES = 1 << 20

UNREADABLE = (
    *(tarfile.TarError, zlib.error, EOFError, OSError),
    *(ValueError, OverflowError, MemoryError),
)


def read_members(path: Path, limits: Mapping[str, int]) -> dict[str, bytes]:
    """The contents of the members in `limits`, which maps names to the most bytes allowed.

    All members must be folders or plain files inside the archive's folder.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = Limited(gzip.GzipFile(fileobj=file) if zipped else file, MOST_HEADER_BYTES)
        try:
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as tar:
                members = _checked_members(path, tar, limits)
                stream.most = MAX_ARCHIVE_BYTES
                return {name: _content(path, tar, one) for name, one in members.items()}
        except UNREADABLE as error:
            raise CheckpointError(
                f"{path} is not a whole tar archive ({error}); fetch it again"
            ) from error


def _checked_members(
    path: Path, tar: tarfile.TarFile, limits: Mapping[str, int]
) -> dict[str, tarfile.TarInfo]:
    """The members in `limits`; each header is checked before the next one is read."""
    found: dict[str, tarfile.TarInfo] = {}
    total = 0
    for count, member in enumerate(tar, start=1):
        name = posixpath.normpath(member.name)
        if posixpath.isabs(name) or ".." in member.name.split("/"):
            raise CheckpointError(f"{path} holds {member.name!r}, outside its own folder; refused")
        if not (member.isdir() or (member.isreg() and not member.issparse())):
            raise CheckpointError(
                f"{path}: {member.name!r} is a link or a device; an archive holds plain files"
            )
        total += member.size
        most = limits.get(name, MAX_ARCHIVE_BYTES)
        if member.size > most or total > MAX_ARCHIVE_BYTES:
            raise CheckpointError(
                f"{path}: {member.name!r} declares {member.size:,} bytes; at most {most:,} are read"
            )
        if name in found:
            raise CheckpointError(f"{path} holds {name!r} twice; which one is meant?")
        if count > MAX_ARCHIVE_MEMBERS:
            raise CheckpointError(
                f"{path} has more than {MAX_ARCHIVE_MEMBERS} members; NeMo saves few"
            )
        if name in limits and member.isreg():
            found[name] = member
    for name in limits:
        if name not in found:
            raise CheckpointError(f"{path} holds no {name}; give an archive that NeMo saved")
    return found


def _content(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise CheckpointError(f"{path}: {member.name!r} is cut short; fetch the archive again")
    return data


def read_yaml(data: bytes, where: str) -> dict[str, Any]:
    """The mapping in a YAML document of plain values."""
    try:
        config = parse_yaml(data)
    except UntrustedError as error:
        raise CheckpointError(f"{where} cannot be used: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{where} is not a mapping; give a model's config")
    return config
