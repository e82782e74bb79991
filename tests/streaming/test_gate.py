"""The vad in front of a recogniser: no words without speech, live and offline."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from torch import Tensor

import speechkit as sk
from speechkit.data import read_audio
from speechkit.errors import ConfigError, StreamError
from speechkit.events import Event, Final
from speechkit.models import Model
from speechkit.plans.source import about_of, resolve
from speechkit.rules.endpointing import Endpointing
from speechkit.rules.vad import PostProcessing
from speechkit.streaming.gate import NEVER, blanked
from speechkit.streaming.opening import PAD_MS, speech_of

RATE = 16000
CLIP = Path(str(resources.files("speechkit"))) / "bundled" / "clips" / "an4_mmsh.opus"
BLOCKS = (
    sk.Block(channels=8, kernel=5, stride=2),
    sk.Block(channels=8, kernel=1, separable=False),
)
ENDLESS = Endpointing(silence_before_s=99, silence_after_s=99, longest_s=99)
AN4 = sk.load("an4")


def centred(model: Model, index: int) -> Model:
    """An untrained model whose scores move about between its classes."""
    head = list(model.head.parameters())
    with torch.no_grad():
        head[0].normal_(0, 4, generator=torch.Generator().manual_seed(index))
        head[1].sub_(model(tones(6, seed=5)[None]).scores[0].mean(0))
    return model


def tones(seconds: float, seed: int = 0) -> Tensor:
    """Another tone every 0.1 s, with as little noise as a room has."""
    chance = torch.Generator().manual_seed(seed)
    samples = round(seconds * RATE)
    hertz = 4000 * torch.rand(samples // 1600 + 1, generator=chance) ** 2
    at = torch.arange(samples)
    x = 0.3 * torch.sin(2 * torch.pi * hertz[at // 1600] * at / RATE)
    return x + 1e-3 * torch.randn(samples, generator=chance)


FRONTEND = "log_mel:n_mels=16,normalize=fixed"
# the detector looks further ahead, so that scores must wait for it
READER = centred(
    sk.build(
        sk.QuartzNet(
            labels=tuple(" hilo"),
            blocks=BLOCKS,
            frontend=FRONTEND,
            endpointing=ENDLESS,
            lookahead=0,
        )
    ).eval(),
    1,
)
POST = PostProcessing(onset=0.5, offset=0.4, min_speech_ms=60, min_silence_ms=100)
DETECTOR = centred(
    sk.build(
        sk.MarbleNet(blocks=BLOCKS, frontend=FRONTEND, frame_level=True, postprocess=POST)
    ).eval(),
    2,
)


def events_of(session: sk.streaming.Stream, parts: Iterable[Tensor]) -> list[Event]:
    return [event for part in parts for event in session.feed(part)] + session.finish()


def texts(events: Iterable[Event]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Final))


def noise(kind: str, seconds: int = 4) -> np.ndarray:
    chance = np.random.default_rng(0)
    samples = seconds * RATE
    return (
        {
            "white": lambda: chance.standard_normal(samples) * 0.03,
            "loud": lambda: chance.standard_normal(samples) * 0.2,
            "faint": lambda: chance.standard_normal(samples) * 0.001,
            "dither": lambda: chance.integers(-1, 2, samples) / 32768,
            "silence": lambda: np.zeros(samples),
            "hum": lambda: 0.1 * np.sin(2 * np.pi * 50 * np.arange(samples) / RATE),
            "clicks": lambda: 0.8 * (chance.random(samples) < 2e-4),
        }[kind]()
        .clip(-1, 1)
        .astype(np.float32)
    )


@pytest.mark.parametrize("kind", ["white", "loud", "faint", "dither", "silence", "hum", "clicks"])
def test_noise_gives_no_text(kind: str) -> None:
    x = noise(kind)
    found = sk.transcribe(AN4, x, RATE)
    assert (found.text, found.words) == ("", ())
    assert events_of(sk.stream(AN4), [torch.from_numpy(x)]) == []


def test_the_bundled_recogniser_alone_gives_no_text_in_white_noise() -> None:
    x = noise("white", 10)
    assert sk.transcribe(AN4, x, RATE, vad=None).text == ""
    assert texts(events_of(sk.stream(AN4, vad=None), [torch.from_numpy(x)])) == ""


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
@pytest.mark.parametrize("level", [1.0, 0.03])
def test_speech_amid_noise_is_read_alone_live_as_offline(decoder: str, level: float) -> None:
    x = torch.from_numpy(noise("white", 6)) * 0.03
    clip = read_audio(CLIP)
    x[3 * RATE :][: len(clip)] = clip
    x *= level
    whole = sk.transcribe(AN4, x, RATE, decoder)
    assert len(whole.words) > 1
    assert all(3 <= word.start_s < word.end_s < 3 + len(clip) / RATE for word in whole.words)
    events = events_of(sk.stream(AN4, decoder=decoder), x.split(1000))
    finals = [event for event in events if isinstance(event, Final)]
    assert texts(finals) == whole.text
    for one, other in zip(finals[0].words, whole.words, strict=True):
        assert (one.text, one.start_s, one.end_s) == (
            other.text,
            pytest.approx(other.start_s),
            pytest.approx(other.end_s),
        )


def test_the_bundled_detector_has_lower_thresholds_before_a_recogniser() -> None:
    speech = speech_of(about_of(resolve(AN4)), RATE, "vad")
    assert speech is not None
    rule = speech._net.about.rule(PostProcessing)
    assert (rule.onset, rule.offset) == (0.2, 0.1)
    own = about_of(resolve("vad")).rule(PostProcessing)
    assert own.onset > rule.onset
    assert own.offset > rule.offset


def test_the_bundled_recogniser_answers_no_later_with_the_gate() -> None:
    assert sk.stream(AN4).latency_s == sk.stream(AN4, vad=None).latency_s
    # a causal one waits for the detector: its 0.12 s of sound, and the pad, in whole frames
    gated, plain = sk.stream(READER), sk.stream(READER, vad=None)
    assert gated.latency_s == pytest.approx(plain.latency_s + 0.28)
    with pytest.raises(StreamError, match=r"more than max_latency_s=0\.2"):
        sk.stream(READER, max_latency_s=0.2)


@pytest.mark.parametrize("rate", [RATE, 22050, 44100])
def test_words_are_those_of_the_detectors_stretches_live_as_offline(rate: int) -> None:
    x = tones(6)[: 6 * rate]
    session = sk.stream(READER, rate, vad=DETECTOR)
    assert session._scheduler.gate is not None
    assert session._scheduler.gate.held > 0
    (final,) = [e for e in events_of(session, x.split(777)) if isinstance(e, Final)]
    if rate == RATE:
        found = sk.transcribe(READER, x, rate, vad=DETECTOR)
        assert final.text == found.text
        assert final.words[-1].end_s == found.words[-1].end_s
        spans = sk.detect(DETECTOR, x, rate)
        pad_s = PAD_MS / 1000
        assert len(spans) > 2
        for word in found.words:
            assert any(s.start_s - pad_s < word.end_s <= s.end_s + pad_s + 0.01 for s in spans)
    assert final.text != texts(events_of(sk.stream(READER, rate, vad=None), [x]))


@settings(max_examples=6)
@given(
    cuts=st.lists(st.integers(0, 32_000), max_size=12).map(sorted),
    rate=st.sampled_from([RATE, 22050]),
)
def test_any_chunking_and_a_restored_state_give_the_same_events(cuts: list[int], rate: int) -> None:
    x = tones(2, seed=3)
    parts = [x[a:b] for a, b in itertools.pairwise([0, *cuts, len(x)])]

    def session() -> sk.streaming.Stream:
        return sk.stream(READER, rate, vad=DETECTOR)

    expected = events_of(session(), [x])
    assert texts(expected)
    assert events_of(session(), parts) == expected
    first, second, half = session(), session(), len(parts) // 2
    begun = [event for part in parts[:half] for event in first.feed(part)]
    second.state = load(save(first.state))
    assert begun + events_of(second, parts[half:]) == expected


def test_rows_of_a_batch_are_each_as_if_alone_and_begin_anew() -> None:
    rows = torch.stack([tones(2, seed) for seed in range(3)])
    batch = sk.StreamBatch(READER, 2, vad=DETECTOR)
    cut = 12 * batch.block_samples
    begun = batch.feed(rows[:2, :cut])
    batch.reset(1)
    ended = batch.feed(rows[[0, 2], cut:])
    last = batch.finish()
    assert begun[0] + ended[0] + last[0] == events_of(sk.stream(READER, vad=DETECTOR), [rows[0]])
    assert ended[1] + last[1] == events_of(sk.stream(READER, vad=DETECTOR), [rows[2, cut:]])
    waiting = sk.StreamBatch(READER, 1)
    waiting.feed(rows[:1, :320])
    with pytest.raises(StreamError, match="reset a row after a multiple of 1280 samples"):
        waiting.reset(0)


@pytest.mark.parametrize("rate", [RATE, 22050])
def test_sessions_of_a_pool_are_each_as_if_alone(rate: int) -> None:
    sounds = [tones(1 + seed / 4, seed).numpy() for seed in range(5)]
    pool, chance = sk.SessionPool(READER, 3, rate, vad=DETECTOR), np.random.default_rng(0)
    found: dict[int, list[Event]] = {}
    index_of: dict[int, int] = {}
    waiting, at = list(range(5)), [0] * 5
    while waiting or len(found) < 5 or any(not pool.is_done(s) for s in index_of):
        while waiting and len(index_of) < 3:
            index_of[pool.join()] = waiting.pop()
        for session, index in index_of.items():
            x = sounds[index]
            if at[index] < len(x):
                piece = x[at[index] :][: int(chance.integers(1, 9000))]
                at[index] += pool.feed(session, piece)
                if at[index] == len(x):
                    pool.finish(session)
        if step := pool.step():
            for session, events in step.events().items():
                found.setdefault(index_of[session], []).extend(events)
            for session in step.ended:
                found.setdefault(index_of.pop(session), [])
                pool.leave(session)
    for index, x in enumerate(sounds):
        assert found[index] == events_of(sk.stream(READER, rate, vad=DETECTOR), [x])
    assert any(texts(events) for events in found.values())


@settings(max_examples=5)
@given(cuts=st.lists(st.integers(0, 32_000), max_size=8).map(sorted))
def test_an_approximate_session_has_the_gate_too(cuts: list[int]) -> None:
    x = tones(2, seed=3)
    parts = [x[a:b] for a, b in itertools.pairwise([0, *cuts, len(x)])]

    def session(vad: Model | None = DETECTOR) -> sk.streaming.WindowedStream:
        return sk.stream(READER, window_s=0.8, right_s=0.1, hop_s=0.2, vad=vad)

    expected = events_of(session(), [x])
    assert session().latency_s > session(None).latency_s
    assert texts(expected) != texts(events_of(session(None), [x]))
    first, second, half = session(), session(), len(parts) // 2
    begun = [event for part in parts[:half] for event in first.feed(part)]
    second.state = first.state
    assert begun + events_of(second, parts[half:]) == expected
    silent = sk.stream(AN4, window_s=2)
    assert events_of(silent, [torch.from_numpy(noise("white"))]) == []


def test_a_gate_that_finds_speech_everywhere_changes_nothing() -> None:
    open_ = DETECTOR.with_(postprocess={"onset": 0, "offset": 0})
    x = tones(2)
    assert sk.transcribe(READER, x, RATE, vad=open_) == sk.transcribe(READER, x, RATE, vad=None)
    # a bound on stretches does not part words
    short = open_.with_(postprocess={"max_speech_s": 0.2})
    assert sk.transcribe(READER, x, RATE, vad=short) == sk.transcribe(READER, x, RATE, vad=None)


def test_a_long_recording_is_gated_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tones(5)
    whole = sk.transcribe(READER, x, RATE, vad=DETECTOR)
    monkeypatch.setattr("speechkit.infer.LONG_S", 0.7)
    pieces = sk.transcribe(READER, x, RATE, vad=DETECTOR)
    assert pieces.text == whole.text != ""


def test_outside_speech_the_blank_is_certain() -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(4), 3)).astype(np.float32)
    found = blanked(log_probs, np.array([True, False, True]))
    np.testing.assert_array_equal(found[[0, 2]], log_probs[[0, 2]])
    assert found.dtype == np.float32
    assert found[1].tolist() == [NEVER, NEVER, NEVER, 0]
    assert np.exp(found[1].astype(np.float64)).tolist() == [0, 0, 0, 1]


def test_a_detector_is_a_model_a_folder_or_a_name(tmp_path: Path) -> None:
    sk.save(DETECTOR, tmp_path / "mine")
    x = tones(3)
    expected = sk.transcribe(READER, x, RATE, vad=DETECTOR)
    assert sk.transcribe(READER, x, RATE, vad=tmp_path / "mine") == expected
    assert sk.transcribe(READER, x, RATE, vad=str(tmp_path / "mine")) == expected


WHOLE = replace(DETECTOR.config, frontend="log_mel:n_mels=16")
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no text": (lambda: sk.stream(DETECTOR, vad=DETECTOR), "a vad is for recognition"),
    "a recogniser": (lambda: sk.stream(READER, vad=READER), "this quartznet cannot detect"),
    "whole": (lambda: sk.stream(READER, vad=sk.build(WHOLE)), "vad: .*give a detector that"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_gate_is_refused(name: str) -> None:
    ask, says = REFUSED[name]
    with pytest.raises(ConfigError, match=says):
        ask()


def test_a_state_wants_the_same_vad() -> None:
    gated, bundled, plain = (sk.stream(READER, vad=vad) for vad in (DETECTOR, "vad", None))
    for one, other in itertools.permutations([gated, bundled, plain], 2):
        with pytest.raises(StreamError, match="another vad; restore it into a stream"):
            one.state = other.state
