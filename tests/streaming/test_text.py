"""Text in a stream: any decoder, ends of segments, words with times, sessions that are resumed."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import Tensor

import speechkit as sk
from speechkit import infer
from speechkit.decode import Decoder
from speechkit.decode.beam import BeamCTC
from speechkit.decode.greedy import GreedyCTC
from speechkit.errors import ConfigError, StreamError
from speechkit.events import Event, Final, Partial
from speechkit.models import Model, Net
from speechkit.plans.about import About
from speechkit.rules.endpointing import Endpointing
from speechkit.streaming.listeners import TextListener
from speechkit.text.align import words_of

LABELS = (" ", "h", "i")
BLANK = len(LABELS)
FRAME_S = 0.2
RULE = Endpointing(silence_before_s=2, silence_after_s=0.8, longest_s=8)
ENDLESS = Endpointing(silence_before_s=99, silence_after_s=99, longest_s=99)
DECODERS: dict[str, Decoder] = {
    "greedy": GreedyCTC(LABELS),
    "beam": BeamCTC(LABELS, beam=4, horizon=4, hotwords=["hi hi"], length_bonus=0.5),
}
each_decoder = pytest.mark.parametrize("decoder", DECODERS)


def listener(decoder: str = "greedy") -> TextListener:
    return TextListener(DECODERS[decoder], FRAME_S, RULE)


def spelled(path: list[int]) -> np.ndarray:
    """CTC log-probabilities whose best label has probability 0.9."""
    p = torch.full((len(path), BLANK + 1), 0.1 / BLANK)
    p[range(len(path)), path] = 0.9
    return p.log().numpy()


def random_scores(seed: int, frames: int, sharpness: float) -> np.ndarray:
    """Log-probabilities with silences of all lengths."""
    chance = torch.Generator().manual_seed(seed)
    scores = sharpness * torch.randn(frames, BLANK + 1, generator=chance)
    silent = torch.rand(frames // 5 + 1, generator=chance).repeat_interleave(5)[:frames] < 0.5
    scores[:, BLANK] += 8.0 * silent
    return scores.log_softmax(-1).numpy()


scores = st.builds(
    random_scores, st.integers(0, 10**6), st.integers(0, 80), st.sampled_from([0.5, 2.0, 6.0])
)
cuts = st.lists(st.integers(0, 80), max_size=6)


def listen(text: TextListener, log_probs: np.ndarray, cuts: list[int]) -> list[Event]:
    """The events of frames in pieces."""
    state, events = text.init(), []
    edges = [0, *sorted(min(cut, len(log_probs)) for cut in cuts), len(log_probs)]
    for start, end in itertools.pairwise(edges):
        state, new = text.step(state, log_probs[start:end], end * FRAME_S)
        events += new
    return events + text.finish(state, len(log_probs) * FRAME_S)


def finals(events: list[Event]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


@each_decoder
def test_a_text_with_a_low_mean_score_is_dropped(decoder: str) -> None:
    # "hi" has the scores 0.9² and, after a pause, 0.9 · 0.5
    log_probs = spelled([BLANK, 1, 2, *6 * [BLANK], 1, 2, *6 * [BLANK]])
    log_probs[10] = np.log([0.05, 0.05, 0.5, 0.4])
    for least, expected in ((0.0, 2), (0.4, 2), (0.6, 1), (0.85, 0)):
        text = TextListener(DECODERS[decoder], FRAME_S, replace(RULE, least_score=least))
        events = listen(text, log_probs, [3, 11])
        assert [event.text for event in finals(events)] == expected * ["hi"]
        # what was shown is taken back
        if expected < 2:
            assert events[-1] == Partial("", "", events[-1].at_s, events[-1].decided_s)


@pytest.mark.parametrize(
    ("path", "low", "text"),
    [
        ([1, 2, *6 * [BLANK], 1, 2], [], "hi hi"),
        # the model's own space is enough
        ([1, 2, 0, *6 * [BLANK], 1, 2], [], "hi hi"),
        ([1, 2, BLANK, BLANK, 1, 2], [], "hihi"),
        # a text is dropped, and with it the space before it
        ([1, 2, *4 * [BLANK], 0, 2, *5 * [BLANK], 1, 2], [7], "hi hi"),
        ([1, 2, *6 * [BLANK], 1, 2], [8, 9], "hi"),
    ],
)
def test_a_whole_recording_has_the_segments_of_a_stream(
    path: list[int], low: list[int], text: str
) -> None:
    log_probs = spelled(path)
    for frame in low:
        log_probs[frame] = np.log(0.5 / BLANK)
        log_probs[frame, path[frame]] = np.log(0.5)
    rule, reader = replace(RULE, least_score=0.6), DECODERS["greedy"]
    about = SimpleNamespace(
        rule=lambda _: rule, labels=LABELS, frame_s=FRAME_S, confidence=(1.0, 0.0)
    )
    changed = infer._as_in_a_stream(cast(About, about), log_probs, reader)
    assert reader.finish(reader.step(reader.init(), changed)[0]).strip() == text
    assert changed.max(1).min() > np.log(0.4)
    if 0 in path and not low:
        np.testing.assert_array_equal(changed, log_probs)
    streamed = finals(listen(TextListener(reader, FRAME_S, rule), log_probs, [3]))
    assert " ".join(final.text for final in streamed) == text


def test_a_text_grows_and_is_final_after_a_pause() -> None:
    path = [BLANK, 1, 1, 2, 0, 1, BLANK, 0, BLANK, BLANK, 2, BLANK]
    events = listen(listener(), spelled(path), list(range(12)))
    assert [e.text for e in events if isinstance(e, Partial)] == ["h", "hi", "hi h", "i"]
    first, last = finals(events)
    assert (first.text, last.text) == ("hi h", "i")
    assert [word.text for word in first.words] == ["hi", "h"]
    # a word begins before its first label, but not before the one before has ended
    edges = [t / FRAME_S for w in first.words for t in (w.start_s, w.end_s)]
    assert edges == pytest.approx([0, 4, 4, 6])
    assert first.words[0].score == pytest.approx(0.9**2)
    assert first.decided_s == pytest.approx(10 * FRAME_S)
    assert first.at_s == first.words[-1].end_s


def test_silence_before_speech_is_forgotten() -> None:
    text = listener()
    state = text.init()
    for _ in range(9):
        state, events = text.step(state, spelled([BLANK] * 7), 99.0)
        assert events == []
        assert len(state.log_probs) < 10
    state, _ = text.step(state, spelled([1]), 99.0)
    (final,) = text.finish(state, 99.0)
    assert final.at_s == pytest.approx(64 * FRAME_S)


def test_a_text_ends_when_it_is_as_long_as_may_be() -> None:
    found = finals(listen(listener(), spelled([1, BLANK] * 50), []))
    assert [final.text for final in found] == ["h" * 20, "h" * 20, "h" * 10]
    assert [final.at_s for final in found] == pytest.approx([39 * 0.2, 79 * 0.2, 99 * 0.2])


def test_words_are_those_of_the_offline_alignment_with_the_model_s_confidence() -> None:
    log_probs = random_scores(5, 30, 3.0)
    decoder = DECODERS["beam"]
    text = TextListener(decoder, FRAME_S, ENDLESS, confidence=(0.7, 0.2))
    (final,) = finals(listen(text, log_probs, [3, 17]))
    state, _ = decoder.step(decoder.init(), log_probs)
    ids = decoder.ids(state)
    assert final.words == words_of(log_probs, ids, LABELS, FRAME_S, confidence=(0.7, 0.2))
    assert len(final.words) > 1


@each_decoder
@settings(max_examples=40)
@given(log_probs=scores, cuts=cuts)
def test_finals_do_not_depend_on_chunks(
    decoder: str, log_probs: np.ndarray, cuts: list[int]
) -> None:
    texts = [
        [(e.text, e.words, e.at_s) for e in finals(listen(listener(decoder), log_probs, cut))]
        for cut in (cuts, list(range(len(log_probs))))
    ]
    assert texts[0] == texts[1]


@each_decoder
@settings(max_examples=60)
@given(log_probs=scores, cuts=cuts)
def test_what_is_stable_stays(decoder: str, log_probs: np.ndarray, cuts: list[int]) -> None:
    stable = ""
    for event in listen(listener(decoder), log_probs, cuts):
        assert isinstance(event, Partial | Final)
        assert event.text.startswith(stable)
        if isinstance(event, Partial):
            assert event.text.startswith(event.stable)
            assert event.stable.startswith(stable)
            assert event.stable == event.text or decoder == "beam"
        stable = event.stable if isinstance(event, Partial) else ""


@each_decoder
@settings(max_examples=60)
@given(log_probs=scores, cuts=cuts)
def test_times_are_in_order(decoder: str, log_probs: np.ndarray, cuts: list[int]) -> None:
    at_s = 0.0
    for final in finals(listen(listener(decoder), log_probs, cuts)):
        assert [word.text for word in final.words] == final.text.split()
        for word in final.words:
            assert at_s <= word.start_s < word.end_s <= final.decided_s
            at_s = word.end_s


class Doubtful(GreedyCTC):
    """Takes back at the end what it has read."""

    def finish(self, state: Any) -> str:
        return ""

    def step(self, state: Any, log_probs: np.ndarray) -> tuple[Any, str]:
        state, _ = super().step(state, log_probs)
        return state, "h" * len(state.read)


def test_a_partial_text_that_turns_out_to_be_nothing_is_taken_back() -> None:
    text = TextListener(Doubtful(LABELS), FRAME_S, RULE)
    events = listen(text, spelled([1, BLANK, BLANK, BLANK, BLANK]), [1])
    assert [(type(event), event.text) for event in events] == [(Partial, "h"), (Partial, "")]


@pytest.fixture
def net(nets: dict[str, Net]) -> Net:
    return replace(nets["ctc"], endpointing=Endpointing(silence_after_s=0.1))


def talkative(net: Net) -> Model:
    """An untrained model that predicts each of its labels now and then."""
    model = sk.build(net).eval()
    weight, bias = model.head.parameters()
    with torch.no_grad():
        weight.normal_(0, 4, generator=torch.Generator().manual_seed(0))
        bias -= model(tones(3)[None]).scores[0].mean(0)
    return model


def tones(seconds: float) -> Tensor:
    """Another tone every 0.1 s, with as little noise as a room has."""
    chance = torch.Generator().manual_seed(0)
    samples = round(seconds * 16000)
    hertz = 4000 * torch.rand(samples // 1600 + 1, generator=chance) ** 2
    at = torch.arange(samples)
    x = 0.3 * torch.sin(2 * torch.pi * hertz[at // 1600] * at / 16000)
    return x + 1e-3 * torch.randn(samples, generator=chance)


@pytest.mark.parametrize("decoder", ["greedy", "beam:beam=8,horizon=5"])
def test_a_session_resumed_amid_a_text_gives_the_same_events(
    net: Net, decoder: str, tmp_path: Path
) -> None:
    model, x = talkative(net), tones(3)
    whole = sk.stream(model, decoder=decoder)
    expected = whole.feed(x) + whole.finish()
    assert len(finals(expected)) > 1
    events: list[Event] = []
    stream = sk.stream(model, decoder=decoder)
    for part in x.split(7001):
        save_file(stream.state, tmp_path / "state.safetensors")
        stream = sk.stream(model, decoder=decoder)
        stream.state = load_file(tmp_path / "state.safetensors")
        events += stream.feed(part)
    assert events + stream.finish() == expected


@pytest.mark.parametrize("decoder", ["greedy", "beam:beam=8"])
def test_a_session_without_ends_says_what_transcribe_does(net: Net, decoder: str) -> None:
    model, x = talkative(replace(net, endpointing=ENDLESS)), tones(3.005)
    stream = sk.stream(model, decoder=decoder)
    (final,) = finals(
        [event for part in x.split(999) for event in stream.feed(part)] + stream.finish()
    )
    whole = sk.transcribe(model, x, 16000, decoder)
    assert len(whole.words) > 1
    assert final.text == whole.text
    for one, other in zip(final.words, whole.words, strict=True):
        assert (one.text, one.start_s, one.end_s) == (other.text, other.start_s, other.end_s)
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_a_decoder_may_be_shared_and_serves_batches_and_windows(net: Net) -> None:
    model, x = talkative(net), tones(2)
    decoder = BeamCTC(model.labels, beam=8)
    named, shared = sk.stream(model, decoder="beam:beam=8"), sk.stream(model, decoder=decoder)
    expected = named.feed(x) + named.finish()
    assert shared.feed(x) + shared.finish() == expected
    batch = sk.StreamBatch(model, 2, decoder=decoder)
    for row in zip(batch.feed([x, x]), batch.finish(), strict=True):
        assert [e.text for e in finals([*row[0], *row[1]])] == [e.text for e in finals(expected)]
    windowed = sk.stream(model, window_s=1, decoder=decoder)
    assert finals(windowed.feed(x) + windowed.finish())


def test_decoders_that_do_not_fit_are_refused(nets: dict[str, Net], net: Net) -> None:
    with pytest.raises(ConfigError, match="recognition; leave it out for a marblenet"):
        sk.stream(sk.build(nets["frame"]), decoder="greedy")
    model = sk.build(net).eval()
    with pytest.raises(ConfigError, match="which are not the 5 of the model"):
        sk.stream(model, decoder=GreedyCTC("ab"))
    with pytest.raises(StreamError, match="not made with this decoder"):
        sk.stream(model, decoder="beam").state = sk.stream(model).state


def test_a_model_saved_before_there_were_ends_has_the_usual_ones(net: Net, tmp_path: Path) -> None:
    sk.save(sk.build(net), tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    assert sk.load(tmp_path / "old").config.endpointing == net.endpointing
    stored = json.loads(path.read_text())
    del stored["config"]["endpointing"]
    path.write_text(json.dumps(stored))
    usual = Endpointing(silence_before_s=2.4, silence_after_s=1.2, longest_s=20)
    assert sk.load(tmp_path / "old").config.endpointing == usual
