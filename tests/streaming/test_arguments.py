"""Arguments of sessions that make no sense are refused in one line, before samples are taken."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import speechkit as sk
from speechkit.data import read_sample_blocks
from speechkit.errors import AudioError, ConfigError, SpeechkitError, StreamError
from speechkit.infer import stream_scores

X = np.zeros(1000, np.float32)


def approximate(**arguments: Any) -> object:
    return sk.stream("vad", **{"window_s": 8.0, **arguments})


REFUSED: dict[str, Callable[[Any], object]] = {
    "capacity": lambda value: sk.SessionPool("vad", value),
    "size": lambda value: sk.StreamBatch("vad", value),
    "room_s": lambda value: sk.SessionPool("vad", 1, room_s=value),
    "max_latency_s": lambda value: sk.stream("vad", max_latency_s=value),
    "pre_roll_ms": lambda value: sk.stream("vad", pre_roll_ms=value),
    "window_s": lambda value: approximate(window_s=value),
    "right_s": lambda value: approximate(right_s=value),
    "hop_s": lambda value: approximate(hop_s=value),
    "sample_rate": lambda value: approximate(sample_rate=value),
    "chunk_s": lambda value: list(stream_scores("vad", torch.zeros(1000), value)),
    "block_s": lambda value: list(read_sample_blocks(X, 16000, block_s=value)),
    "wait_s": lambda value: sk.SessionPool("vad", 1).step(wait_s=value),
    "samples of a gap": lambda value: sk.stream("vad").skip(value),
}
VALUES = [-1, math.nan, "3", [1], True]


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("name", REFUSED)
def test_a_number_out_of_range_is_one_line(name: str, value: Any) -> None:
    with pytest.raises(
        (StreamError, ConfigError, AudioError), match=f"{name}=.*: give a .*number from"
    ):
        REFUSED[name](value)


LARGE_OR_BROKEN = [
    *(("capacity", value) for value in (1.5, 10**30)),
    *(("size", value) for value in (1.5, 0)),
    *((name, value) for name in ("window_s", "right_s", "hop_s") for value in (math.inf, 1e30)),
    *(("sample_rate", value) for value in (math.inf, 10**400, 0)),
    *(("chunk_s", value) for value in (math.inf, 1e30)),
    *(("room_s", value) for value in (1e9, math.inf)),
    *(("wait_s", value) for value in (1e10, math.inf)),
    *(("samples of a gap", value) for value in (1.5, 10**12)),
    ("max_latency_s", None),
]


@pytest.mark.parametrize(("name", "value"), LARGE_OR_BROKEN)
def test_so_is_a_large_or_broken_one(name: str, value: Any) -> None:
    with pytest.raises(StreamError, match=f"{name}=.*: give a .*number from"):
        REFUSED[name](value)


def test_a_wait_that_is_refused_takes_no_samples() -> None:
    pool = sk.SessionPool("vad", 1)
    session = pool.join()
    with pytest.raises(StreamError, match="wait_s=inf"):
        pool.feed(session, X, wait_s=math.inf)
    assert pool._scheduler.waiting.given[0] == 0


@pytest.mark.parametrize("impl", [None, "torch"])
def test_a_pool_refuses_rates_and_precisions(impl: str | None) -> None:
    with pytest.raises(StreamError, match="sample_rate=0 does not fit 16000 Hz"):
        sk.SessionPool(sk.load("vad"), 1, 0, impl=impl)
    for precision in ("float16", None, []):
        with pytest.raises(ConfigError, match=r"precision=.*: give one of float32, bfloat16, int8"):
            sk.SessionPool("vad", 1, precision=precision, impl=impl)


def test_a_pool_on_a_processor_is_no_cards() -> None:
    assert sk.SessionPool(sk.load("vad"), 1, impl="torch").backend.startswith("torch: ")


def test_unknown_sessions_and_rows_are_one_line() -> None:
    pool, batch = sk.SessionPool("vad", 2), sk.StreamBatch("vad", 2)
    first = pool.join()
    refused: list[tuple[str, Callable[[], object]]] = [
        (r"there is no session \[1\]", lambda: pool.feed([1], X)),  # type: ignore[arg-type]
        ("there is no session 'a'", lambda: pool.finish("a")),  # type: ignore[arg-type]
        ("1 are no sessions", lambda: pool.feed_many(1, X[None])),  # type: ignore[arg-type]
        (r"\[\] are no sessions", lambda: pool.feed_many([], X[None])),
        ("samples of 2 sessions, expected 1", lambda: pool.feed_many([first], np.stack([X, X]))),
        ("samples of 1 sessions, expected 2", lambda: batch.feed(np.stack([X, X])[None])),
        (r"rows of \[999, 1000\] samples", lambda: batch.feed([X, X[1:]])),
        ("no row 1.5", lambda: batch.reset(1.5)),  # type: ignore[arg-type]
        ("no row -1", lambda: batch.reset(-1)),
        ("no row 1.0", lambda: batch.reset(1.0)),  # type: ignore[arg-type]
        ("no row True", lambda: batch.reset(True)),
    ]
    for message, call in refused:
        with pytest.raises(StreamError, match=message) as error:
            call()
        assert isinstance(error.value, SpeechkitError)
    with pytest.raises(AudioError, match="cannot read int as samples"):
        pool.feed(first, 1)  # type: ignore[arg-type]
