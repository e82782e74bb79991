"""An error in a step breaks its sessions, and one in a listener that session; the others go on."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import speechkit as sk
from speechkit.decode.greedy import GreedyCTC, GreedyState
from speechkit.errors import StreamError
from speechkit.models import Model, Net
from speechkit.streaming.scheduler import BROKEN

BLOCK, READ = 320, 1280
"""The samples of a block of the detector and of the recogniser."""


class Fuse(nn.Module):
    """A plugin's activation, without a native form, which raises when it is told to."""

    error: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return torch.relu(x)


class Choking(GreedyCTC):
    """A greedy decoder that raises where a score is a given number."""

    chokes_on: float | None = None

    def step(self, state: GreedyState, log_probs: np.ndarray) -> tuple[GreedyState, str]:
        if (log_probs[:, 0] == self.chokes_on).any():
            raise ValueError("it chokes")
        return super().step(state, log_probs)


@pytest.fixture
def fused(nets: dict[str, Net]) -> tuple[Model, Fuse]:
    torch.manual_seed(0)
    model, fuse = sk.build(nets["frame"]).eval(), Fuse()
    # any score is an event
    model = model.with_(postprocess={"onset": 0, "offset": 0, "min_speech_ms": 0})
    model.encoder[-1].after.activation.module = fuse
    return model, fuse


@pytest.fixture
def reader(nets: dict[str, Net]) -> Model:
    torch.manual_seed(0)
    return sk.build(nets["ctc"]).eval()


def sound(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


def scores_of(pool: sk.SessionPool, session: int, x: np.ndarray) -> np.ndarray:
    found = []
    for part in np.split(x, range(BLOCK, len(x), BLOCK)):
        assert pool.feed(session, part) == len(part)
        step = pool.step()
        found += [step.scores()[session]] if step else []
    return np.concatenate(found)


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("impl", [None, "torch"])
def test_a_step_that_raises_breaks_its_sessions_only(
    fused: tuple[Model, Fuse], error: BaseException, impl: str | None
) -> None:
    model, fuse = fused
    pool, alone = sk.SessionPool(model, 3, impl=impl), sk.SessionPool(model, 1, impl=impl)
    x = sound(6 * BLOCK)
    wanted = scores_of(alone, alone.join(), x)
    first, second, third = (pool.join() for _ in range(3))
    begun = scores_of(pool, third, x[: 3 * BLOCK])
    pool.feed(first, x[:BLOCK])
    pool.feed(second, x[:BLOCK])
    fuse.error = error
    with pytest.raises(type(error)):
        pool.step()
    for session in (first, second):
        for refused in (pool.finish, lambda s: pool.feed(s, x), lambda s: pool.feed_many([s], x)):
            with pytest.raises(StreamError, match=f"session {session} is broken; join anew"):
                refused(session)
        assert pool.is_done(session)
    rest = scores_of(pool, third, x[3 * BLOCK :])
    np.testing.assert_array_equal(np.concatenate([begun, rest]), wanted)
    # a row starts anew
    pool.leave(first)
    np.testing.assert_array_equal(scores_of(pool, pool.join(), x), wanted)


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
def test_a_stream_whose_step_raised_takes_no_more(
    fused: tuple[Model, Fuse], error: BaseException
) -> None:
    model, fuse = fused
    stream, other = sk.stream(model), sk.stream(model)
    stream.feed(sound(BLOCK))
    state = stream.state
    fuse.error = error
    with pytest.raises(type(error)):
        stream.feed(sound(BLOCK, 1))
    for refused in (stream.finish, lambda: stream.feed(sound(1)), lambda: stream.state):
        with pytest.raises(StreamError, match="this stream is broken; make a new one"):
            refused()
    # a state brings it back
    stream.state = other.state = state
    assert stream.feed(sound(BLOCK, 1)) == other.feed(sound(BLOCK, 1))
    np.testing.assert_array_equal(stream.scores, other.scores)


def test_rows_of_a_batch_whose_step_raised_begin_anew(fused: tuple[Model, Fuse]) -> None:
    model, fuse = fused
    batch, alone = sk.StreamBatch(model, 2), sk.StreamBatch(model, 2)
    x = np.stack([sound(3 * BLOCK), sound(3 * BLOCK, 1)])
    fuse.error = ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        batch.feed(x[:, : BLOCK + 7])
    for row in (0, 1):
        with pytest.raises(StreamError, match=f"row {row} is broken; reset it"):
            batch.feed(x)
        batch.reset(row)
    assert batch.feed(x) == alone.feed(x)
    np.testing.assert_array_equal(batch.scores, alone.scores)


def test_a_detector_that_raises_breaks_the_sessions_behind_it(
    fused: tuple[Model, Fuse], reader: Model
) -> None:
    detector, fuse = fused
    stream = sk.stream(reader, vad=detector)
    fuse.error = ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        stream.feed(sound(8000))
    with pytest.raises(StreamError, match="this stream is broken"):
        stream.feed(sound(10))


def choking_on(model: Model, x: np.ndarray, impl: str | None = None) -> Choking:
    """A decoder that raises at the scores of a sound's third block."""
    decoder, pool = Choking(model.labels), sk.SessionPool(model, 1, impl=impl)
    session = pool.join()
    decoder.chokes_on = float(scores_of(pool, session, x[: 3 * READ])[-1, 0])
    return decoder


def test_a_decoder_that_raises_breaks_its_session_and_no_event_of_others_is_lost(
    reader: Model,
) -> None:
    sounds = [sound(12 * READ, seed) for seed in range(3)]
    decoder, alone = choking_on(reader, sounds[1]), GreedyCTC(reader.labels)
    pool = sk.SessionPool(reader, 3, decoder=decoder)
    sessions = [pool.join() for _ in sounds]
    found: dict[int, list[Any]] = {session: [] for session in sessions}
    errors = []
    for start in range(0, 12 * READ, READ):
        for session, x in zip(sessions, sounds, strict=True):
            if not (errors and session == sessions[1]):
                pool.feed(session, x[start : start + READ])
        step = pool.step()
        assert step is not None
        while True:
            try:
                events = step.events()
                break
            except StreamError as error:
                errors.append(str(error))
        assert len(step.scores()) == 3 - (start > 2 * READ)
        for session, new in events.items():
            found[session] += new
    (error,) = errors
    wanted = "session 2 is broken, since a step raised ValueError: it chokes; join anew"
    assert error == wanted
    with pytest.raises(StreamError, match="session 2 is broken; join anew"):
        pool.feed(sessions[1], sounds[1])
    for index in (0, 2):
        assert found[sessions[index]] == sk.stream(reader, decoder=alone, vad=None).feed(
            sounds[index]
        )
    assert found[sessions[0]]


def test_a_batch_keeps_the_events_of_other_rows(reader: Model) -> None:
    sounds = np.stack([sound(12 * READ, seed) for seed in range(2)])
    decoder = choking_on(reader, sounds[1])
    batch = sk.StreamBatch(reader, 2, decoder=decoder, vad=None)
    with pytest.raises(StreamError, match="row 1 is broken, since a step raised ValueError: it"):
        batch.feed(sounds)
    with pytest.raises(StreamError, match="row 1 is broken; reset it"):
        batch.feed(sounds)
    batch.reset(1)
    nothing = np.zeros((2, 0), np.float32)
    kept, none = batch.feed(nothing)
    alone = sk.stream(reader, vad=None).feed(sounds[0])
    assert kept == alone
    assert none == []
    assert batch.feed(nothing) == [[], []]


def test_a_row_that_breaks_within_a_block_is_reset_at_once(reader: Model) -> None:
    sounds = np.stack([sound(12 * READ + 5, seed) for seed in range(2)])
    batch = sk.StreamBatch(reader, 2, decoder=choking_on(reader, sounds[1]), vad=None)
    with pytest.raises(StreamError, match="row 1 is broken"):
        batch.feed(sounds)
    batch.reset(1)
    more = np.stack([sound(6 * READ, 5), sound(6 * READ, 6)])
    found = [a + b for a, b in zip(batch.feed(more), batch.finish(), strict=True)]
    for got, x in zip(found, (np.concatenate([sounds[0], more[0]]), more[1]), strict=True):
        alone = sk.stream(reader, vad=None)
        assert got == alone.feed(x) + alone.finish()


def test_a_stream_whose_decoder_raised_takes_no_more(reader: Model) -> None:
    x = sound(6 * READ)
    stream = sk.stream(reader, decoder=choking_on(reader, x), vad=None)
    with pytest.raises(StreamError, match="this stream is broken, since a step raised ValueError"):
        stream.feed(x)
    with pytest.raises(StreamError, match="this stream is broken; make a new one"):
        stream.feed(x)


def run_while(pool: sk.SessionPool, work: Callable[[], Any]) -> Any:
    """What `work()` gives while `run` makes the steps."""

    async def both() -> Any:
        running = asyncio.create_task(pool.run())
        try:
            return await asyncio.wait_for(work(), 30)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    return asyncio.run(both())


async def collected(events: Any) -> list[Any]:
    return [event async for event in events]


def test_run_goes_on_when_a_session_breaks(reader: Model) -> None:
    sounds = [sound(12 * READ, seed) for seed in range(3)]
    pool = sk.SessionPool(reader, 3, decoder=choking_on(reader, sounds[1]))
    sessions = [pool.join() for _ in sounds]

    async def all_of_them() -> list[Any]:
        iterators = [pool.events(session) for session in sessions]
        for session, x in zip(sessions, sounds, strict=True):
            pool.feed(session, x)
            pool.finish(session)
        return await asyncio.gather(*map(collected, iterators), return_exceptions=True)

    first, broken, third = run_while(pool, all_of_them)
    for events, x in ((first, sounds[0]), (third, sounds[2])):
        alone = sk.stream(reader, vad=None)
        assert events == alone.feed(x) + alone.finish()
    assert "session 2 is broken, since a step raised ValueError: it chokes" in str(broken)
    # and for who asks later
    with pytest.raises(StreamError, match="session 2 is broken"):
        run_while(pool, lambda: collected(pool.events(sessions[1])))


def test_an_error_of_run_reaches_all_who_wait(fused: tuple[Model, Fuse]) -> None:
    model, fuse = fused
    pool = sk.SessionPool(model, 2)
    beside, ill = pool.join(), pool.join()

    async def everything() -> None:
        fuse.error = ValueError("boom")
        waiting = asyncio.create_task(collected(pool.events(beside)))
        hurt = asyncio.create_task(collected(pool.events(ill)))
        await asyncio.sleep(0)
        feeding = asyncio.create_task(pool.feed_async(ill, sound(100_000)))
        with pytest.raises(ValueError, match="boom"):
            await asyncio.wait_for(pool.run(), 30)
        with pytest.raises(StreamError, match=r"run ended, as ValueError: boom; call it again"):
            await asyncio.wait_for(waiting, 30)
        with pytest.raises(StreamError, match=f"session {ill} is broken"):
            await asyncio.wait_for(hurt, 30)
        with pytest.raises(StreamError, match=f"run ended|session {ill} is broken"):
            await asyncio.wait_for(feeding, 30)

    asyncio.run(everything())

    async def again() -> list[Any]:
        events = pool.events(beside)
        pool.feed(beside, sound(10 * BLOCK))
        pool.finish(beside)
        return await collected(events)

    assert run_while(pool, again) != []


def test_run_fetches_the_steps_that_were_made_before_it(fused: tuple[Model, Fuse]) -> None:
    pool = sk.SessionPool(fused[0], 1)
    session = pool.join()
    events = pool.events(session)
    pool.feed(session, sound(8000))
    pool.finish(session)
    while pool.step() and not pool.is_done(session):
        pass
    assert run_while(pool, lambda: collected(events)) != []


def test_a_run_that_is_cancelled_loses_nothing(fused: tuple[Model, Fuse]) -> None:
    model, x = fused[0], sound(40 * BLOCK)
    alone = sk.stream(model)
    wanted = alone.feed(x) + alone.finish()
    pool = sk.SessionPool(model, 1)

    async def interrupted() -> list[Any]:
        session = pool.join()
        collecting = asyncio.create_task(collected(pool.events(session)))
        for part in np.split(x, 40):
            running = asyncio.create_task(pool.run())
            await pool.feed_async(session, part)
            await asyncio.sleep(0)
            running.cancel()
        pool.finish(session)
        running = asyncio.create_task(pool.run())
        try:
            return await asyncio.wait_for(collecting, 30)
        finally:
            running.cancel()

    assert asyncio.run(interrupted()) == wanted


def test_an_idle_run_does_nothing(fused: tuple[Model, Fuse]) -> None:
    pool, turns = sk.SessionPool(fused[0], 1), []
    step = pool.step
    pool.step = lambda: turns.append(step())  # type: ignore[method-assign]

    async def a_while() -> None:
        await asyncio.sleep(0.2)

    run_while(pool, a_while)
    assert turns == [None]


def test_events_after_the_end_end_at_once_and_have_one_iterator(
    fused: tuple[Model, Fuse],
) -> None:
    pool = sk.SessionPool(fused[0], 1)
    session = pool.join()
    pool.feed(session, sound(8000))
    pool.finish(session)
    while step := pool.step():
        step.events()
    for _ in range(2):
        assert run_while(pool, lambda: collected(pool.events(session))) == []
    held = pool.events(session)
    with pytest.raises(StreamError, match=f"session {session} has an iterator of its events"):
        pool.events(session)
    del held


def test_a_session_ends_once(fused: tuple[Model, Fuse]) -> None:
    pool = sk.SessionPool(fused[0], 1)
    session, ended = pool.join(), []
    pool.finish(session)
    while step := pool.step():
        ended += step.ended
    with pytest.raises(StreamError, match=f"session {session} is finished; join anew"):
        pool.finish(session)
    assert ended == [session]
    assert pool.is_done(session)


def test_a_batch_with_finished_rows_is_refused_until_they_are_reset() -> None:
    batch, other = sk.StreamBatch("vad", 2), sk.StreamBatch("vad", 2)
    batch.finish()
    batch.reset(1)
    other.state = batch.state
    x = sound(2 * 16000).reshape(2, -1)
    for refused in (lambda: other.feed(x), other.finish):
        with pytest.raises(StreamError, match="row 0 is finished; reset it"):
            refused()
    other.reset(0)
    assert other.feed(x) == sk.StreamBatch("vad", 2).feed(x)


def test_a_step_that_failed_when_it_was_read_is_one_line(reader: Model) -> None:
    pool = sk.SessionPool(reader, 1)
    session = pool.join()
    pool.feed(session, sound(READ))
    step = pool.step()
    assert step is not None

    class Lost:
        @property
        def scores(self) -> np.ndarray:
            raise RuntimeError("the card is gone")

    step._begun = replace(step._begun, scored=Lost())
    with pytest.raises(RuntimeError, match="the card is gone"):
        step.events()
    with pytest.raises(StreamError, match="this step failed"):
        step.scores()
    assert pool._scheduler.closed == {pool._rows[session]: BROKEN}


def test_two_loops_may_run_one_pool(fused: tuple[Model, Fuse]) -> None:
    model, sounds = fused[0], [sound(20 * BLOCK, seed) for seed in range(2)]
    pool = sk.SessionPool(model, 2)

    def served(x: np.ndarray) -> list[Any]:
        async def one() -> list[Any]:
            session = pool.join()
            collecting = asyncio.create_task(collected(pool.events(session)))
            for part in np.split(x, 20):
                await pool.feed_async(session, part)
                await asyncio.sleep(0)
            pool.finish(session)
            return await collecting

        return run_while(pool, one)  # type: ignore[no-any-return]

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(served, sounds))
    for events, x in zip(found, sounds, strict=True):
        alone = sk.stream(model)
        assert events == alone.feed(x) + alone.finish()


@pytest.mark.parametrize("backwards", [False, True])
def test_a_session_that_breaks_has_no_events_in_the_steps_after(
    reader: Model, backwards: bool
) -> None:
    sounds = [sound(12 * READ, seed) for seed in range(2)]
    # a pool as on a card, where a step is in progress while the next begins
    pool = sk.SessionPool(reader, 2, impl="torch", decoder=choking_on(reader, sounds[1], "torch"))
    first, second = (pool.join() for _ in sounds)
    pool.feed(second, sounds[1][: 4 * READ])
    steps = []
    for start in range(0, 12 * READ, READ):
        pool.feed(first, sounds[0][start : start + READ])
        steps.append(pool.step())
    found, errors = [], 0
    for step in steps[::-1] if backwards else steps:
        assert step is not None
        try:
            found.append(step.events())
        except StreamError:
            errors += 1
            found.append(step.events())
    assert errors == 1
    found = found[::-1] if backwards else found
    assert [second in step.sessions for step in steps if step][:4] == [True] * 4
    assert not any(second in events for events in found[3:])
    wanted = sk.stream(reader, vad=None).feed(sounds[0])
    got = [event for events in found for event in events.get(first, [])]
    assert [type(event) for event in got] == [type(event) for event in wanted]


@pytest.mark.parametrize("impl", [None, "torch"])
@pytest.mark.parametrize("finished", [False, True])
def test_a_session_whose_decoder_raised_ends_with_one_step(
    reader: Model, impl: str | None, finished: bool
) -> None:
    sounds = [sound(6 * READ, seed) for seed in range(2)]
    decoder = choking_on(reader, sounds[1], impl)
    pool = sk.SessionPool(reader, 2, impl=impl, decoder=decoder, room_s=10)
    sessions = [pool.join() for _ in sounds]
    for session, x in zip(sessions, sounds, strict=True):
        pool.feed(session, x)
    pool.finish(sessions[0])
    if finished:
        # its last step may be in progress while its decoder raises
        pool.finish(sessions[1])
    ended = []
    while len(ended) < 2:
        step = pool.step()
        assert step is not None
        ended += step.ended
    assert sorted(ended) == sessions
    assert pool.step() is None
