"""A pool of sessions: as many as wish, each as if it were alone; on the CPU and, if any, a card."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from torch import Tensor

import speechkit as sk
from speechkit.data import read_audio, read_manifest
from speechkit.errors import ConfigError, StreamError
from speechkit.models import Model
from speechkit.plans.source import resolve
from speechkit.streaming.engines.cuda.graphs import CpuQueue
from speechkit.streaming.pool import SessionPool
from speechkit.testing import assert_close

BLOCKS = (
    sk.Block(channels=16, kernel=5, stride=2),
    sk.Block(channels=16, kernel=7, repeat=2, residual=True),
    sk.Block(channels=16, kernel=5, dilation=2),
    sk.Block(channels=16, kernel=1, separable=False),
)
FRONTEND = "log_mel:n_mels=16,normalize=fixed"
DEVICES = [
    "cpu",
    "rings",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
        ],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def listener(device: str = "cpu", lookahead: int = 1) -> Model:
    """A tiny detector, exact except on a card."""
    config = sk.MarbleNet(frame_level=True, blocks=BLOCKS, frontend=FRONTEND, lookahead=lookahead)
    torch.manual_seed(0)
    model = sk.build(config).eval()
    return model.to(device) if device == "cuda" else model.double()


def pool_of(model: Model, capacity: int, device: str = "rings") -> SessionPool:
    """A pool; that of a card runs on the CPU too, without graphs."""
    return SessionPool(model, capacity, impl="torch" if device == "rings" else None)


def sound(samples: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, samples)
    return noise.astype(np.float32)


def offline(model: Model, sounds: list[np.ndarray]) -> list[Tensor]:
    """The scores of each sound as a whole."""
    weight, found = next(model.parameters()), []
    for start in range(0, len(sounds), 256):
        part = [torch.from_numpy(x) for x in sounds[start : start + 256]]
        lengths = torch.tensor([len(x) for x in part])
        x = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
        with torch.inference_mode():
            y = model(x.to(weight.device, weight.dtype), lengths.to(weight.device))
        found += [s[:n].cpu() for s, n in zip(y.scores, y.lengths.tolist(), strict=True)]
    return found


def served(pool: SessionPool, sounds: list[np.ndarray], seed: int = 0) -> list[Tensor]:
    """The scores of sounds whose sessions join, are fed and leave at random."""
    chance = np.random.default_rng(seed)
    found: list[list[np.ndarray]] = [[] for _ in sounds]
    waiting, listening = list(range(len(sounds)))[::-1], {}
    at = [0] * len(sounds)
    while waiting or listening:
        while waiting and len(listening) < pool.capacity and chance.random() < 0.99:
            listening[pool.join()] = waiting.pop()
        for session, index in list(listening.items()):
            x = sounds[index]
            if at[index] < len(x):
                offered = x[at[index] : at[index] + chance.integers(0, 4 * pool.block_samples)]
                at[index] += pool.feed(session, offered)
                if at[index] == len(x):
                    pool.finish(session)
        step = pool.step()
        for session, scores in step.scores().items() if step else ():
            found[listening[session]].append(scores)
        for session in [s for s, i in listening.items() if at[i] == len(sounds[i])]:
            if pool.is_done(session):
                pool.leave(session)
                del listening[session]
    return [torch.from_numpy(np.concatenate(parts)) for parts in found]


def test_a_thousand_sessions_are_each_as_if_alone(device: str) -> None:
    model = listener(device)
    pool = pool_of(model, 1024, device)
    lengths = np.random.default_rng(1).integers(800, 4000, 1200)
    sounds = [sound(int(n), seed) for seed, n in enumerate(lengths)]
    got = served(pool, sounds)
    for index, (y, wanted) in enumerate(zip(got, offline(model, sounds), strict=True)):
        assert_close(str(index), wanted, y, 1e-4 if device == "cuda" else 1e-12)
    if device != "cpu":
        captured = pool._engine._captured
        rows, blocks = ({key[i] for key in captured} for i in (0, 1))
        assert rows <= {2**n for n in range(11)}
        assert blocks <= {1, 2, 4}
        assert len(captured) <= 2 * len(rows) * len(blocks)


def test_a_prepared_model_is_served_too(device: str) -> None:
    model, x = listener(device).float(), sound(4000, seed=0)
    (got,) = served(pool_of(sk.prepare(model), 1, device), [x])
    assert_close("scores", offline(model, [x])[0], got, 1e-4)


def test_a_pool_can_be_made_ready() -> None:
    pool = pool_of(listener(), 6)
    pool.make_ready(3)
    captured = pool._engine._captured
    assert {key[:2] for key in captured} == {(n, b) for n in (1, 2, 4) for b in (1, 2, 4)}
    before = len(captured)
    assert before == 18
    served(pool, [sound(3000, seed) for seed in range(3)])
    assert len(captured) == before


def test_scores_are_those_of_a_stream(device: str) -> None:
    model = listener(device)
    pool = pool_of(model, 1, device)
    x = sound(5000, seed=0)
    stream = sk.stream(model)
    assert pool.latency_s == stream.latency_s
    wanted = []
    for block in np.split(x, range(320, 5000, 320)):
        stream.feed(block)
        wanted.append(stream.scores)
    (got,) = served(pool, [x])
    late = round(stream.latency_s / model.frame_s) - 1
    # the last block is incomplete
    wanted = torch.from_numpy(np.stack(wanted[late:-1]))
    assert len(wanted) > 10
    assert_close("scores", wanted, got[: len(wanted)], 1e-4 if device == "cuda" else 1e-12)


def test_events_are_those_of_a_stream() -> None:
    clips = read_manifest(files("speechkit") / "bundled" / "clips" / "clips.jsonl")
    x = np.concatenate([read_audio(clip.audio, None, 16000).numpy() for clip in clips])
    torch.manual_seed(0)
    words = sk.QuartzNet(labels=tuple(" hilo"), blocks=BLOCKS, frontend=FRONTEND, lookahead=1)
    for model in (sk.load("vad"), sk.build(words).eval().double()):
        # a pool has no gate
        stream = sk.stream(model, vad=None)
        wanted = stream.feed(x) + stream.finish()
        pool, chance = SessionPool(model, 3), np.random.default_rng(0)
        sessions, found = [pool.join() for _ in range(3)], {1: [], 2: [], 3: []}
        at, late = dict.fromkeys(sessions, 0), []
        while not all(at[s] == len(x) and pool.is_done(s) for s in sessions):
            for s in sessions:
                if at[s] < len(x):
                    at[s] += pool.feed(s, x[at[s] : at[s] + chance.integers(0, 9000)])
                    if at[s] == len(x):
                        pool.finish(s)
            late += [step] if (step := pool.step()) else []
        # asked in any order
        for step in reversed(late):
            for s, events in step.events().items():
                found[s] = events + found[s]
        assert wanted
        assert found == dict.fromkeys(sessions, wanted)


def test_a_session_may_have_a_rule_of_its_own() -> None:
    (path, *_) = sorted((files("speechkit") / "bundled" / "clips").glob("*.opus"))
    samples = read_audio(path, None, 16000).numpy()
    pool = SessionPool("vad", 2, room_s=30)
    rules: list[dict[str, float] | None] = [None, {"onset": 0.99, "min_silence_ms": 20}]
    sessions = [pool.join(rule) for rule in rules]
    found: dict[int, list[sk.events.Event]] = {session: [] for session in sessions}
    for session in sessions:
        assert pool.feed(session, samples) == len(samples)
        pool.finish(session)
    while step := pool.step():
        for session, events in step.events().items():
            found[session] += events
    for session, rule in zip(sessions, rules, strict=True):
        alone = sk.stream(resolve("vad").with_(postprocess=rule))
        assert found[session] == alone.feed(samples) + alone.finish()
    assert found[sessions[0]] != found[sessions[1]]
    with pytest.raises(ConfigError, match="offset=0"):
        pool.join({"onset": 0.1, "offset": 0.2})
    with pytest.raises(ConfigError, match="no postprocess"):
        SessionPool("an4", 1).join({"onset": 0.1})


def test_a_full_pool_and_a_full_session_say_so() -> None:
    pool = SessionPool(listener(), 2, room_s=0.1)
    first, second = pool.join(), pool.join()
    with pytest.raises(StreamError, match="all 2 rows of the pool are taken"):
        pool.join()
    x = sound(20_000, seed=0)
    taken = pool.feed(first, x)
    assert 0 < taken < len(x)
    assert pool.feed(first, x[taken:]) == 0
    assert pool.step() is not None
    # as much as the step took
    assert pool.feed(first, x[taken:]) == taken
    pool.leave(second)
    assert pool.join() != second
    with pytest.raises(StreamError, match=f"there is no session {second}"):
        pool.feed(second, x)
    pool.finish(first)
    with pytest.raises(StreamError, match="is finished; join anew"):
        pool.feed(first, x)


def test_there_is_no_step_while_nothing_waits() -> None:
    pool = SessionPool(listener(), 2)
    assert pool.step() is None
    session = pool.join()
    pool.feed(session, sound(pool.block_samples - 1, seed=0))
    assert pool.step() is None
    pool.feed(session, sound(1, seed=1))
    step = pool.step()
    assert step is not None
    assert step.sessions == [session]
    assert pool.step() is None


def test_an_empty_session_ends_without_scores() -> None:
    pool = SessionPool(listener(), 1)
    session = pool.join()
    pool.finish(session)
    while step := pool.step():
        assert step.scores()[session].shape[0] == 0
    assert pool.is_done(session)


def test_scores_fetched_late_are_those_of_their_own_step(device: str) -> None:
    model = listener(device)
    x = sound(12 * 320, seed=0)
    found = []
    for late in (False, True):
        pool = pool_of(model, 1, device)
        session, steps = pool.join(), []
        for part in np.split(x, 12):
            pool.feed(session, part)
            steps.append(pool.step())
            if not late:
                steps[-1].scores()
        found.append(np.concatenate([step.scores()[session] for step in steps]))
    np.testing.assert_array_equal(*found)


def test_a_session_that_leaves_early_keeps_its_events_and_its_row_starts_anew(device: str) -> None:
    eager = {"onset": 0, "offset": 0, "min_speech_ms": 0}
    pool = pool_of(listener(device).with_(postprocess=eager), 1, device)
    begun = []
    for seed in range(3):
        session = pool.join()
        pool.feed(session, sound(1280, seed))
        begun.append(pool.step().events()[session])
        pool.feed(session, sound(640, seed + 9))
        step = pool.step()
        # before anyone asked for the results, which are no second start
        pool.leave(session)
        assert step.events() == {}
    assert begun == [begun[0]] * 3


class Delayed(CpuQueue):
    """Work that is done when it is waited for, as on a card that is slow."""

    def run(self, given, work, made):  # type: ignore[no-untyped-def]
        ended = []

        def wait() -> None:
            if not ended:
                ended.append(super(Delayed, self).run(given, work, made))

        return wait


def test_no_more_steps_are_under_way_than_memory_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("speechkit.streaming.engines.cuda.engine.CpuQueue", Delayed)
    model = listener()
    x = sound(12 * 320, seed=0)
    pool = pool_of(model, 1)
    session, steps = pool.join(), []
    for part in np.split(x, 12):
        pool.feed(session, part)
        steps.append(pool.step())
    got = torch.from_numpy(np.concatenate([step.scores()[session] for step in steps]))
    assert_close("late", offline(model, [x])[0][: len(got)], got, 1e-12)


def test_the_plan_says_what_each_op_runs() -> None:
    pool = pool_of(listener(), 1)
    plan = [str(choice) for choice in sk.ops.explain(pool.net)]
    ours = [line for line in plan if ": separable_conv" in line]
    assert len(ours) == 6
    assert all(line.endswith("by torch") for line in ours)
    assert pool.bytes_each > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")
@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_kernels_in_graphs_give_the_references_scores(precision: str, error: float) -> None:
    model, x = listener("cuda"), sound(8000, seed=0)
    pool = SessionPool(model, 4, precision=precision)  # type: ignore[arg-type]
    convs = [c for c in sk.ops.explain(pool.net) if c.op.startswith("separable_conv")]
    assert {c.impl for c in convs} == {"triton"}
    (got,) = served(pool, [x])
    with sk.ops.use_impl("reference"):
        assert_close("scores", offline(model, [x])[0], got, error)
