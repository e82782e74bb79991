"""JSON and YAML from outside are bounded in size, depth and numbers."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from speechkit.io.untrusted import UntrustedError, parse_json, parse_yaml
from speechkit.limits import MAX_JSON_BYTES, MAX_JSON_DEPTH, MAX_NUMBER

numbers = st.integers(-int(MAX_NUMBER), int(MAX_NUMBER)) | st.floats(-MAX_NUMBER, MAX_NUMBER)
plain = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["C"])),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text("abc é"), parts),
    max_leaves=20,
)


def test_ordinary_data_comes_through() -> None:
    data = {"a": [1, 2.5, None, True, "text"], "b": {"c": -3}}
    assert parse_json(json.dumps(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * (MAX_JSON_DEPTH + 1) + "]" * (MAX_JSON_DEPTH + 1),
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        "NaN",
        "[Infinity]",
        '{"duration": 1e400}',
        "1" + "0" * 400,
        "1" + "0" * 5_000,
        "{",
        b"\xff\xfe",
        "",
        "[" + "[]," * 3_000_000 + "0]",
        b"[" + b'{"a":0},' * 2_000_000 + b"0]",
        '{"a": 1, "a": 2}',
        '[{"b": {"a": 1, "a": 1}}]',
    ],
)
def test_what_is_damaged_or_beyond_the_limits_is_one_short_line(text: str | bytes) -> None:
    with pytest.raises(UntrustedError) as refused:
        parse_json(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_the_greatest_depth_is_taken() -> None:
    parse_json("[" * (MAX_JSON_DEPTH - 1) + "]" * (MAX_JSON_DEPTH - 1))


@given(plain)
def test_what_is_written_is_read_back(data: Any) -> None:
    assert parse_json(json.dumps(data)) == data
    assert parse_yaml(yaml.safe_dump(data, allow_unicode=True).encode()) == data


def complaint(parse: Callable[[bytes], Any], data: bytes) -> str | None:
    try:
        parse(data)
    except UntrustedError as error:
        return str(error)
    return None


@given(st.text(st.characters(codec="utf-8")) | st.binary())
def test_any_text_is_data_or_refused(text: str | bytes) -> None:
    for parse in (parse_json, parse_yaml):
        message = complaint(parse, text.encode() if isinstance(text, str) else text)
        assert message is None or "\n" not in message


def test_a_key_twice_is_named() -> None:
    with pytest.raises(UntrustedError, match="the key 'text' twice"):
        parse_json('{"text": "a", "text": "b"}')
    with pytest.raises(UntrustedError, match="the key 'labels' twice"):
        parse_yaml(b"a: {labels: 1, rate: 2, labels: 3}")
    # another kind of key with the same letters
    assert parse_yaml(b"{1: a, '1': b}") == {1: "a", "1": "b"}


def test_own_states_hold_any_number() -> None:
    state = {"best": math.inf, "scores": [-math.inf, 1e300], "key": 2**64 - 1}
    assert parse_json(json.dumps(state), any_number=True) == state
    with pytest.raises(UntrustedError, match="levels"):
        parse_json("[" * 65 + "]" * 65, any_number=True)
    with pytest.raises(UntrustedError):
        parse_json("1" + "0" * 5_000, any_number=True)


BOMB = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB.encode(), "more than 200000 values"),
        (b"&a [*a]", "more than 200000 values"),
        (b"[" + b"x, " * 200_001 + b"]", "more than 200000 values"),
        (b"[" * 100_000, "deeper than 64 levels"),
        (b"{a: " * 100_000, "deeper than 64 levels"),
        (b"a: \x00", "not plain YAML"),
        (b"a: \x07", "not plain YAML"),
        (b"\xff\xfe\x00", "not plain YAML"),
        (b"!!python/object/apply:os.system ['true']", "not plain YAML"),
        (b"a: 2001-99-99", "not plain YAML"),
        (b"a: 1" + b"0" * 5_000, "not plain YAML"),
        (b"[", "not plain YAML"),
        (b" " * (MAX_JSON_BYTES + 1), "bytes"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None,
)
def test_yaml_that_is_damaged_or_beyond_the_limits_is_one_short_line(
    text: bytes, says: str
) -> None:
    with pytest.raises(UntrustedError, match=says) as refused:
        parse_yaml(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_aliases_and_merges_within_the_limits_are_read() -> None:
    text = b"base: &base {rate: 16000, n: 64}\nnet: {<<: *base, n: 80}\ntwice: [*base, *base]"
    base = {"rate": 16000, "n": 64}
    assert parse_yaml(text) == {"base": base, "net": {"rate": 16000, "n": 80}, "twice": [base] * 2}
    assert parse_yaml(b"") is None
