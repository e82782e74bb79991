"""One mutator for bytes and text: flips, cuts, copies, and numbers and values at their extremes."""

import re
from collections.abc import Callable
from random import Random

MOST_EDITS = 6
HEAD = 128
"""Half of the edits lie within the first bytes, where headers are."""
INTEGERS = (0, 1, -1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63)
NUMBERS = (
    *(b"0", b"-1", b"0.5", b"1e308", b"-1e308", b"1e400", b"1e-400", b"NaN", b"-Infinity", b".inf"),
    *(b"99999999", b"1000000000000000000", b"9" * 5000, b"0x10", b"007"),
)
VALUES = (
    *(b"null", b"true", b"{}", b"[]", b'""', b'"x"', b"[[[]]]", b"-", b"&a [*a]", b"!!python/none"),
    *(b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b'"\x1b[31m"', b'"\\u0000"', b'"\xff"'),
    *(b'"' + b"x" * 20_000 + b'"', b'"../../../out"', b'"/dev/zero"', b'"/dev/stdin"', b'"."'),
)
NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")
VALUE = re.compile(rb'"[^"\n]*"|\btrue\b|\bfalse\b|\bnull\b|\[[^\[\]\n]*\]|\{[^{}\n]*\}|[\w./]+')


def mutate(data: bytes, chance: Random) -> bytes:
    """The data after a few edits; the same for the same state of `chance`."""
    edits = (*BINARY, *TEXT * 2) if is_text(data) else BINARY
    for _ in range(chance.randint(1, MOST_EDITS)):
        data = chance.choice(edits)(data, chance)
    return data


def is_text(data: bytes) -> bool:
    """Whether its beginning has no bytes that text does not have."""
    return not any(byte < 9 or byte == 127 for byte in data[:4096])


def place(data: bytes, chance: Random) -> int:
    """Where to edit."""
    return chance.randint(0, min(len(data), HEAD) if chance.random() < 0.5 else len(data))


def flip(data: bytes, chance: Random) -> bytes:
    """A bit changes."""
    at = place(data, chance)
    return (
        data[:at] + bytes(b ^ 1 << chance.randint(0, 7) for b in data[at : at + 1]) + data[at + 1 :]
    )


def integer(data: bytes, chance: Random) -> bytes:
    """One to eight bytes become an integer at an extreme."""
    size, order = chance.choice([1, 2, 4, 8]), chance.choice(["little", "big"])
    value = chance.choice(INTEGERS) % 256**size
    at = place(data, chance)
    return data[:at] + value.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def remove(data: bytes, chance: Random) -> bytes:
    """A stretch is lost."""
    at = place(data, chance)
    return data[:at] + data[at + chance.choice([1, 2, 4, chance.randint(1, 1000)]) :]


def cut(data: bytes, chance: Random) -> bytes:
    """The end is lost."""
    return data[: place(data, chance)]


def insert(data: bytes, chance: Random) -> bytes:
    """Bytes of any value are put in."""
    at = place(data, chance)
    return data[:at] + chance.randbytes(chance.choice([1, 2, 4, 16, 300])) + data[at:]


def copy(data: bytes, chance: Random) -> bytes:
    """A stretch comes again elsewhere."""
    start, at = place(data, chance), place(data, chance)
    return data[:at] + data[start : start + chance.randint(1, 1000)] + data[at:]


def number(data: bytes, chance: Random) -> bytes:
    """A number in text is replaced."""
    return replaced(data, NUMBER, NUMBERS, chance)


def value(data: bytes, chance: Random) -> bytes:
    """A value in text is replaced, by another of the text or by one that is seldom right."""
    found = [match.group() for match in VALUE.finditer(data)]
    return replaced(data, VALUE, found if found and chance.random() < 0.3 else VALUES, chance)


def line(data: bytes, chance: Random) -> bytes:
    """A line is lost, doubled or moved."""
    lines = data.splitlines(keepends=True)
    if lines:
        one = lines.pop(chance.randrange(len(lines)))
        for _ in range(chance.randint(0, 2)):
            lines.insert(chance.randint(0, len(lines)), one)
    return b"".join(lines)


def replaced(
    data: bytes, pattern: re.Pattern[bytes], by: tuple[bytes, ...] | list[bytes], chance: Random
) -> bytes:
    """The data with one match of a pattern replaced."""
    found = list(pattern.finditer(data))
    if not found:
        return data
    start, end = chance.choice(found).span()
    return data[:start] + chance.choice(by) + data[end:]


Edit = Callable[[bytes, Random], bytes]
BINARY: tuple[Edit, ...] = (flip, flip, integer, integer, remove, cut, insert, copy)
TEXT: tuple[Edit, ...] = (number, number, value, value, line)
