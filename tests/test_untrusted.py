"""JSON from outside is bounded in size, depth and numbers."""

import json

import pytest

from speechkit.limits import MAX_JSON_DEPTH
from speechkit.untrusted import UntrustedError, parse_json


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
    ],
)
def test_what_is_damaged_or_beyond_the_limits_is_one_short_line(text: str | bytes) -> None:
    with pytest.raises(UntrustedError) as refused:
        parse_json(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_the_greatest_depth_is_taken() -> None:
    parse_json("[" * (MAX_JSON_DEPTH - 1) + "]" * (MAX_JSON_DEPTH - 1))
