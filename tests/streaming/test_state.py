"""A state is taken whole and from a session of the same settings, or refused in one line."""

import copy
import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors import torch as safetensors_torch
from safetensors.numpy import load, save
from torch import Tensor

import speechkit as sk
from speechkit.decode.beam import BeamCTC
from speechkit.errors import StreamError
from speechkit.events import Event
from speechkit.io.arrays import DIGEST_BYTES
from speechkit.models import Model, Net
from speechkit.plans.engine import library
from speechkit.rules import vad
from speechkit.streaming import StreamBatch
from speechkit.streaming.engines.engine import Scores
from speechkit.streaming.listeners import SpeechListener
from speechkit.streaming.row_listeners import (
    EDGES_PER_FRAME,
    Clock,
    NativeSpeechListeners,
    row_listeners,
)
from speechkit.streaming.state import SESSION, State, seal

Session = sk.streaming.Stream | sk.streaming.WindowedStream
RATE = 16000


def sound(samples: int = 8000, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(samples, generator=generator) * 2 - 1


def make(net: Net, **options: object) -> Session:
    return sk.stream(sk.build(net).eval(), **options)


def rest_of(session: Session, samples: Tensor) -> list[Event]:
    return session.feed(samples) + session.finish()


@pytest.fixture(params=["frame", "fixed", "clip", "ctc", "beam", "hotwords", "windowed", "8 kHz"])
def session(request: pytest.FixtureRequest, nets: dict[str, Net]) -> Session:
    """Each kind of session, in the middle of a sound."""
    kinds: dict[str, Callable[[], Session]] = {
        "frame": lambda: make(nets["frame"]),
        "fixed": lambda: make(replace(nets["frame"], frontend="log_mel:n_mels=16,normalize=fixed")),
        "clip": lambda: make(nets["clip"]),
        "ctc": lambda: make(nets["ctc"]),
        "beam": lambda: make(nets["ctc"], decoder="beam:beam=2"),
        "hotwords": lambda: make(
            nets["ctc"], decoder=BeamCTC(nets["ctc"].labels, beam=2, hotwords=["hi"])
        ),
        "windowed": lambda: make(nets["ctc"], window_s=0.4),
        "8 kHz": lambda: make(nets["frame"], sample_rate=8000),
    }
    made = kinds[request.param]()
    made.feed(sound())
    return made


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_goes_on_with_the_same_numbers(
    session: Session, again: Callable[[Session], Session]
) -> None:
    later, other = sound(seed=1), again(session)
    again(session).feed(later)  # what one copy does must not matter to another
    assert rest_of(other, later) == rest_of(session, later)
    for one, two in zip(session.state.values(), other.state.values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_copy_shares_the_model_and_a_pickle_does_not(nets: dict[str, Net]) -> None:
    one = make(nets["frame"])
    assert copy.deepcopy(one).model is one.model
    assert pickle.loads(pickle.dumps(one)).model is not one.model


def test_a_batch_is_copied_with_its_rows(nets: dict[str, Net]) -> None:
    batch = StreamBatch(sk.build(nets["frame"]).eval(), 3)
    batch.feed(sound(3 * 4000).view(3, -1))
    other, later = pickle.loads(pickle.dumps(batch)), sound(3 * 4000, seed=1).view(3, -1)
    assert other.feed(later) + other.finish() == batch.feed(later) + batch.finish()
    np.testing.assert_array_equal(other.scores, batch.scores)


def test_a_model_is_copied_and_pickled_with_the_same_numbers(net: Net) -> None:
    model, x = sk.build(net).eval(), sound()[None]
    for made in (model, sk.prepare(model)):
        for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            with torch.inference_mode():
                assert torch.equal(other(x).scores, made(x).scores)


def test_a_pool_says_that_it_is_not_copied(nets: dict[str, Net]) -> None:
    pool = sk.SessionPool(sk.build(nets["frame"]).eval(), 2)
    for again in (copy.deepcopy, pickle.dumps):
        with pytest.raises(StreamError, match=r"a pool cannot be copied or pickled.*sk\.stream"):
            again(pool)


def test_every_flipped_bit_is_seen(session: Session) -> None:
    state = session.state
    for name, array in state.items():
        if array.size:
            damaged = {other: x.copy() for other, x in state.items()}
            damaged[name].reshape(-1).view(np.uint8)[-1] ^= 1
            with pytest.raises(StreamError, match="does not agree with its digest"):
                session.state = damaged
    for lost in state:
        rest = {name: x for name, x in state.items() if name != lost}
        with pytest.raises(StreamError, match=r"digest|missing"):
            session.state = rest
    session.state = load(save(state))


def test_arrays_and_tensors_go_through_files_alike(session: Session) -> None:
    state, later = session.state, sound(seed=1)
    assert all(isinstance(x, np.ndarray) for x in state.values())
    tensors, other = safetensors_torch.load(save(state)), copy.copy(session)
    assert all(isinstance(x, Tensor) for x in tensors.values())
    other.feed(later)
    other.state = tensors
    assert rest_of(other, later) == rest_of(session, later)


def plain_of(state: State) -> dict:
    return json.loads(bytes(state[SESSION].tolist())[DIGEST_BYTES:])


def sealed(state: State, data: object) -> State:
    rest = {name: x for name, x in state.items() if name != SESSION}
    return seal(rest, json.dumps(data).encode())


def test_a_state_with_a_right_digest_must_fit_all_the_same(session: Session) -> None:
    state, later = session.state, sound(400, seed=1)
    expected = rest_of(copy.copy(session), later)

    def damage(data: object, path: tuple[object, ...], value: object) -> object:
        if not path:
            return value
        made = copy.copy(data)
        made[path[0]] = damage(data[path[0]], path[1:], value)
        return made

    def paths(data: object) -> list[tuple[object, ...]]:
        items = {dict: lambda: data.items(), list: lambda: enumerate(data)}.get(type(data))
        inner = [(key, *path) for key, value in items() for path in paths(value)] if items else []
        return [(), *inner]

    data, refused = plain_of(state), 0
    values = itertools.cycle([None, "x", [], 10**300, float("nan"), {"tensor": "y"}, True])
    for path, value in zip(paths(data) * 2, values, strict=False):
        one = copy.copy(session)
        try:
            one.state = sealed(state, damage(data, path, value))
        except StreamError:
            refused += 1
            # nothing has changed
            assert rest_of(one, later) == expected
    assert refused > 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(session: Session, value: float) -> None:
    state = session.state
    for name, array in state.items():
        if array.dtype.kind == "f" and array.size:
            wrong = {**state, name: np.full_like(array, value)}
            with pytest.raises(StreamError, match=r"holds NaN or infinity|its digest"):
                session.state = sealed(wrong, plain_of(state))


def test_types_and_shapes_are_those_of_the_session(nets: dict[str, Net]) -> None:
    one = make(nets["frame"])
    state = one.state
    name = next(name for name in state if name != SESSION)
    for wrong in (state[name].astype(np.float64), state[name][..., :-1]):
        with pytest.raises(StreamError, match=f"state '{name}' is .*expected float32"):
            one.state = sealed({**state, name: wrong}, plain_of(state))


def weights_changed(model: Model) -> Model:
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    return model


def test_another_model_or_rate_is_named(nets: dict[str, Net]) -> None:
    one = make(nets["frame"])
    for other, unlike in [
        (sk.stream(weights_changed(copy.deepcopy(one.model))), "another model"),
        (sk.stream(one.model, 8000), "another sample_rate"),
        (make(replace(nets["frame"], activation="silu")), "another model"),
    ]:
        with pytest.raises(StreamError, match=f"{unlike}; restore it into a stream of the same"):
            other.state = one.state
    # a session may go on by other rules
    sk.stream(one.model.with_(postprocess={"onset": 0.9})).state = one.state


def test_a_state_of_before_is_refused_by_name(nets: dict[str, Net]) -> None:
    one = make(nets["frame"])
    text = json.dumps({"filled": 0, "consumed": 0, "finished": False, "started": [0]})
    old = {**one.state, SESSION: np.frombuffer(text.encode(), np.uint8)}
    with pytest.raises(StreamError, match="an earlier speechkit wrote this state"):
        one.state = old


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {SESSION: 1},
        {SESSION: np.zeros(3)},
        {SESSION: np.zeros(3, object)},
        {SESSION: torch.zeros(3, device="meta")},
        {SESSION: torch.zeros(3, dtype=torch.bfloat16)},
    ],
)
def test_what_is_no_state_is_refused(nets: dict[str, Net], given: object) -> None:
    with pytest.raises(StreamError, match="state"):
        make(nets["frame"]).state = given


def test_frames_out_of_order_are_refused() -> None:
    # one of them wrote beyond the native rule's buffer
    detector = sk.load("vad").with_(postprocess={"max_speech_s": 1.0})
    session = sk.stream(detector)
    session.feed(sound(16000))
    state, before = session.state, plain_of(session.state)
    good = before["plain"]["place"]["listening"][0]
    for wrong in (
        {"began": good["frames"]},
        {"ended": good["frames"] + 5},
        {"pause": good["frames"]},
        {"edge": good["frames"] + 100},
        {"level": 1000},
    ):
        damaged = copy.deepcopy(before)
        damaged["plain"]["place"]["listening"][0] |= wrong
        with pytest.raises(StreamError, match="its frames are out of order"):
            sk.stream(detector).state = sealed(state, damaged)


@pytest.mark.parametrize("frames", [1, 8])
def test_no_state_makes_the_native_rule_write_beyond_its_buffer(frames: int) -> None:
    detector = sk.load("vad").with_(postprocess={"max_speech_s": 1.0})
    assert isinstance(detector.config, sk.MarbleNet)
    listener = SpeechListener(detector.config.postprocess, detector.frame_s)
    if isinstance(engine := library(), str):
        pytest.skip("no C++ compiler")
    rule = row_listeners(listener, 1, 2, engine)
    assert isinstance(rule, NativeSpeechListeners)
    # a start a thousand frames ago, which is split at once
    far = vad.State(frames=1000, began=0)
    rule.states = [asdict(far)]
    scores = np.tile(np.array([-9, 9], np.float32), (1, 1, frames, 1))
    row = np.zeros(1, np.int64)
    events = rule.step(
        row, Scores(scores, np.ones((1, 1, frames), np.bool_)), Clock(row, row, row, 1, 1)
    )
    assert len(events) <= EDGES_PER_FRAME * frames == len(rule._found)


@pytest.mark.parametrize("steps", [-1e30, -5, 15.5, 1e9, 3e38])
def test_no_state_makes_the_engine_leave_its_memory(steps: float) -> None:
    session = sk.stream("vad")
    if session.backend != "native":
        pytest.skip("no C++ compiler")
    session.feed(sound(8000))
    state = session.state
    state["native"][0, 0] = steps
    session.state = sealed(state, plain_of(state))
    session.feed(sound(16000))
    # the number of steps is right again
    assert session.state["native"][0, 0] in range(4)


def test_a_refused_state_leaves_a_session_as_it_was() -> None:
    x = sound(32000)
    other = sk.stream("an4", decoder="beam")
    other.feed(x[:16000])
    session, plain = sk.stream("an4"), sk.stream("an4")
    with pytest.raises(StreamError, match="not made with this decoder"):
        session.state = other.state
    assert rest_of(session, x) == rest_of(plain, x)
    assert all(map(np.array_equal, session.state.values(), plain.state.values()))


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_that_is_not_there_is_not_reset(nets: dict[str, Net], row: int) -> None:
    batch = StreamBatch(sk.build(nets["frame"]).eval(), 2)
    with pytest.raises(StreamError, match=f"no row {row}; give one from 0 to 1"):
        batch.reset(row)
