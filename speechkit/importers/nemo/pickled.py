"""Reads a state dict that `torch.save` wrote, as tensors only.

The sizes that the file declares are compared with its real size before torch reads it. Otherwise
torch would allocate the declared sizes first.
"""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import CheckpointError
from speechkit.limits import MAX_PICKLE_BYTES

ITEM_BYTES = {
    f"torch {name}Storage": size
    for size, names in {
        8: ("Double", "Long"),
        4: ("Float", "Int"),
        2: ("Half", "BFloat16", "Short"),
        1: ("Char", "Byte", "Bool"),
    }.items()
    for name in names
}
"""The bytes of one element of each storage type, by its name in a pickle."""
GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *ITEM_BYTES,
}
PUTS = {"BINPUT", "LONG_BINPUT"}
GETS = {"BINGET", "LONG_BINGET"}
PUSHES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "GLOBAL", "NONE"}
LEGACY_HEADERS = 3
"""The number of pickles before the state dict in the format that torch wrote until 1.5."""


def read_weights(data: bytes, where: str) -> dict[str, Tensor]:
    """The tensors in a file's bytes by name, on the CPU; CheckpointError for other contents."""
    try:
        # the same test as torch's, since a file may start as a pickle and end as a zip
        if data.startswith(b"PK\x03\x04"):
            _check_zip(data, where)
        else:
            _check_legacy(data, where)
        weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    # torch and zipfile raise errors of many types on a damaged file
    except Exception as error:
        raise CheckpointError(
            f"{where} is not a state dict that torch saved: {type(error).__name__}; fetch it again"
        ) from error
    return _checked_tensors(weights, len(data), where)


def _check_zip(data: bytes, where: str) -> None:
    """Raises CheckpointError unless all records are uncompressed and as large as declared."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        given = archive.infolist()
        records = {record.filename: record for record in given}
        plain = all(record.compress_type == zipfile.ZIP_STORED for record in given)
        declared = sum(record.file_size for record in given)
        if not plain or declared > len(data) or len(records) < len(given):
            raise CheckpointError(
                f"{where} declares more than its {len(data):,} bytes; give what torch.save wrote"
            )
        (pickled,) = [name for name in records if name.endswith("/data.pkl")]
        prefix = pickled.removesuffix("data.pkl")
        for key, size in _storages(io.BytesIO(archive.read(pickled)), where):
            record = records.get(f"{prefix}data/{key}")
            if record is None or record.file_size != size:
                has = record.file_size if record else 0
                raise CheckpointError(
                    f"{where}: storage {key!r} declares {size:,} bytes and has {has:,}"
                )


def _check_legacy(data: bytes, where: str) -> None:
    """Raises CheckpointError where the storages declare more than the file holds."""
    stream = io.BytesIO(data)
    declared: dict[str, int] = {}
    for _ in range(LEGACY_HEADERS + 1):
        for key, size in _storages(stream, where):
            declared[key] = max(size, declared.get(key, 0))
    if sum(declared.values()) > len(data):
        raise CheckpointError(
            f"{where} declares {sum(declared.values()):,} bytes and has {len(data):,}"
        )


def _storages(pickled: io.BytesIO, where: str) -> Iterator[tuple[str, int]]:
    """The key and bytes of every storage that a pickle refers to, without unpickling it.

    `pushed` are the values that simple operations pushed since the last mark. Other operations push
    None, so that a storage that is not described as torch.save does is refused.
    """
    pushed: list[Any] = []
    memo: dict[int, Any] = {}
    description: list[Any] = []
    argument: Any
    for operation, argument, _ in pickletools.genops(pickled):
        name = operation.name
        # torch reads it again afterwards, and is as slow
        if pickled.tell() > MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{where} has more than {MAX_PICKLE_BYTES:,} bytes beside its tensors; give what "
                "torch.save wrote"
            )
        if name == "STACK_GLOBAL" or (name in {"GLOBAL", "INST"} and argument not in GLOBALS):
            asked = str(argument or "a name").replace(" ", ".")[:80]
            raise CheckpointError(f"{where} asks for {asked}; weights ask for tensors only")
        if name in PUTS:
            memo[argument] = pushed[-1] if pushed else None
            continue
        if name == "BINPERSID":
            yield _storage(description, where)
        description = pushed if name == "TUPLE" else []
        if name == "MARK":
            pushed = []
        elif name in {"TUPLE", "BINPERSID"}:
            pushed = [None]
        elif name in GETS:
            pushed.append(memo.get(argument))
        else:
            pushed.append(argument if name in PUSHES else None)


def _storage(description: list[Any], where: str) -> tuple[str, int]:
    """Key and bytes from ("storage", type, key, location, items), and a view in old files."""
    match description:
        case ["storage", str(kind), str(key), str(), int(items), *view]:
            if kind in ITEM_BYTES and items >= 0 and view in ([], [None]):
                return key, items * ITEM_BYTES[kind]
    raise CheckpointError(f"{where} describes a storage as torch.save does not")


def _checked_tensors(weights: Any, size: int, where: str) -> dict[str, Tensor]:
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise CheckpointError(f"{where} is not a table of tensors by name")
    held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in weights.values()}
    # a view with stride 0 can be larger than the bytes in the file
    if max(sum(held.values()), sum(x.nbytes for x in weights.values())) > size:
        raise CheckpointError(f"{where} declares tensors of more than its {size:,} bytes")
    return dict(weights)
