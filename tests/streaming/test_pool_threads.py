"""Sessions that are fed from threads or from asyncio are each as if alone, to the bit."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import speechkit as sk
from speechkit.errors import StreamError
from speechkit.events import Event
from speechkit.models import Model

RATE = 16000
THREADS = 8
SIZES = [16, *(pytest.param(n, marks=pytest.mark.slow) for n in (256, 1024))]
# any change of a score changes an event
JUMPY = {"onset": 0.03, "offset": 0.03, "min_speech_ms": 0, "min_silence_ms": 0}
Fed = Callable[[sk.SessionPool, list[np.ndarray]], list[list[Event]]]


@pytest.fixture(scope="module")
def model() -> Model:
    return sk.load("vad").with_(postprocess=JUMPY)


def sounds(count: int) -> list[np.ndarray]:
    """Noise of random loudness, more sessions than a pool has rows."""
    chance = np.random.default_rng(0)
    lengths = chance.integers(RATE // 4, RATE, count + count // 2)
    found = []
    for n in lengths.tolist():
        loudness = np.repeat(chance.random(n // 800 + 1), 800)[:n] ** 4
        found.append((chance.uniform(-1, 1, n) * loudness).astype(np.float32))
    return found


def pieces(x: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The sound in pieces of random length, some longer than a session's room."""
    chance, at = np.random.default_rng(seed), 0
    while at < len(x):
        step = int(chance.integers(1, 3000))
        yield x[at : at + step]
        at += step


def from_threads(pool: sk.SessionPool, sounds: list[np.ndarray]) -> list[list[Event]]:
    """Events of sounds that are fed from THREADS threads, while this one makes the steps."""
    found: dict[int, list[Event]] = {}
    index_of: dict[int, int] = {}
    free = threading.Semaphore(pool.capacity)
    left, errors = iter(enumerate(sounds)), []
    lock = threading.Lock()

    def feed() -> None:
        try:
            while True:
                with lock:
                    index, x = next(left, (-1, np.empty(0)))
                if index < 0:
                    return
                free.acquire()
                session = pool.join()
                index_of[session] = index
                for piece in pieces(x, index):
                    assert pool.feed(session, piece, wait_s=60) == len(piece)
                pool.finish(session)
        # a thread's own errors would be lost
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=feed) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    done = 0
    while done < len(sounds) and not errors:
        step = pool.step(wait_s=1)
        if step is None:
            continue
        for session, events in step.events().items():
            found.setdefault(session, []).extend(events)
        for session in step.ended:
            assert pool.is_done(session)
            pool.leave(session)
            free.release()
            done += 1
    for thread in threads:
        thread.join()
    assert errors == []
    return [found.get(session, []) for session in sorted(index_of, key=index_of.__getitem__)]


def from_asyncio(pool: sk.SessionPool, sounds: list[np.ndarray]) -> list[list[Event]]:
    """Events of sounds that are fed from as many tasks."""

    async def one(index: int, free: asyncio.Semaphore) -> list[Event]:
        async with free:
            session = pool.join()
            events = pool.events(session)

            async def feed() -> None:
                for piece in pieces(sounds[index], index):
                    await pool.feed_async(session, piece)
                pool.finish(session)

            feeding = asyncio.create_task(feed())
            found = [event async for event in events]
            await feeding
            pool.leave(session)
            return found

    async def everything() -> list[list[Event]]:
        free = asyncio.Semaphore(pool.capacity)
        running = asyncio.create_task(pool.run())
        found = await asyncio.gather(*(one(index, free) for index in range(len(sounds))))
        running.cancel()
        return list(found)

    return asyncio.run(everything())


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("fed", [from_threads, from_asyncio])
def test_each_session_is_as_if_alone(model: Model, count: int, fed: Fed) -> None:
    pool = sk.SessionPool(model, count, room_s=0.1)
    given = sounds(count)
    got = fed(pool, given)
    assert sum(map(len, got)) > 2 * len(given)
    for x, events in zip(given, got, strict=True):
        alone = sk.stream(model)
        assert events == alone.feed(x) + alone.finish()


def test_scores_do_not_depend_on_the_sessions_beside_them(model: Model) -> None:
    pool, chance = sk.SessionPool(model, 40), np.random.default_rng(1)
    given = [chance.uniform(-0.5, 0.5, 6400).astype(np.float32) for _ in range(40)]
    numbers, found = [pool.join() for _ in given], {}
    at = dict.fromkeys(numbers, 0)
    while step := pool.step() or any(n < 6400 for n in at.values()):
        if step is not True:
            for session, scores in step.scores().items():
                found.setdefault(session, []).append(scores)
        for session, x in zip(numbers, given, strict=True):
            part = x[at[session] :][: int(chance.integers(0, 900))]
            at[session] += pool.feed(session, part)
    for session, x in zip(numbers, given, strict=True):
        alone = sk.StreamBatch(model, 1)
        wanted = []
        for block in np.split(x, 20):
            alone.feed(block[None])
            if alone.scores is not None:
                wanted.append(alone.scores)
        np.testing.assert_array_equal(np.concatenate(found[session]), np.concatenate(wanted))


def test_many_are_fed_in_one_call_wherever_they_are(model: Model) -> None:
    pool, chance = sk.SessionPool(model, 6, room_s=0.1), np.random.default_rng(2)
    given = sounds(3)[:3]
    numbers, at = [pool.join() for _ in given], np.zeros(3, np.int64)
    # at places of their own, some with little room
    for index, session in enumerate(numbers):
        at[index] += pool.feed(session, given[index][: 700 * index + 13])
    found: dict[int, list[Event]] = {session: [] for session in numbers}
    while (at < 4000).any():
        size = int(chance.integers(1, 900))
        packet = np.stack([x[start:][:size] for x, start in zip(given, at, strict=True)])
        at += pool.feed_many(numbers, packet)
        step = pool.step() if chance.random() < 0.7 else None
        for session, events in step.events().items() if step else ():
            found[session] += events
    for session, x, start in zip(numbers, given, at, strict=True):
        pool.feed(session, x[start : start + 5])
    for session in numbers:
        pool.finish(session)
    while step := pool.step():
        for session, events in step.events().items():
            found[session] += events
    for session, x, end in zip(numbers, given, at, strict=True):
        alone = sk.stream(model)
        assert found[session] == alone.feed(x[: end + 5]) + alone.finish()
    with pytest.raises(StreamError, match="2 sessions, some twice"):
        pool.feed_many([pool.join()] * 2, np.zeros((2, 5), np.float32))


def test_who_waits_for_room_or_sound_is_woken(model: Model) -> None:
    pool = sk.SessionPool(model, 1, room_s=0.1)
    session = pool.join()
    x = np.zeros(RATE, np.float32)
    assert pool.step(wait_s=0.01) is None
    assert pool.feed(session, x, wait_s=0.01) < len(x)
    steps = []

    def step() -> None:
        while (made := pool.step(wait_s=30)) is not None and len(made.ended) == 0:
            steps.append(made)

    stepping = threading.Thread(target=step)
    stepping.start()
    assert pool.feed(session, x, wait_s=30) == len(x)
    pool.finish(session)
    stepping.join()
    assert len(steps) > 3


def test_events_end_with_their_session(model: Model) -> None:
    async def left() -> list[Event]:
        pool = sk.SessionPool(model, 1)
        session = pool.join()
        events = pool.events(session)
        await pool.feed_async(session, np.zeros(100, np.float32))
        pool.leave(session)
        with pytest.raises(StreamError, match=f"there is no session {session}"):
            await pool.feed_async(session, np.zeros(100, np.float32))
        return [event async for event in events]

    assert asyncio.run(left()) == []
