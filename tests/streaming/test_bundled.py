"""The bundled models on real recordings: the same events whole, cut, resumed, mixed, batched."""

import itertools
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import speechkit as sk
from speechkit.data import read_audio, read_manifest
from speechkit.events import Event, Partial, SpeechEnd, SpeechStart
from speechkit.models import Model
from speechkit.nn import Chunk
from speechkit.streaming import Stream
from speechkit.tasks import listener_of, task_of

BUNDLED = Path(str(resources.files("speechkit"))) / "bundled"
NAMES = sorted(path.name for path in (BUNDLED / "models").iterdir())


def recording(model: Model) -> Tensor:
    """The bundled clips one after the other, with half a second of near silence between them."""
    generator = torch.Generator().manual_seed(0)
    pause = torch.randn(model.sample_rate // 2, generator=generator) * 1e-4
    parts = [pause]
    for clip in read_manifest(BUNDLED / "clips" / "clips.jsonl"):
        parts += [read_audio(clip.audio, target_rate=model.sample_rate), pause]
    return torch.cat(parts)


# the clips are digits, which are other words for `commands`: it reports `unknown` too
MODELS = {
    name: model.with_(spotting={"silent": ()}) if name == "commands" else model
    for name, model in ((name, sk.load(name)) for name in NAMES)
}
SOUNDS = {name: recording(model) for name, model in MODELS.items()}


def events_of(stream: Stream, parts: Iterable[Tensor]) -> list[Event]:
    return [event for part in parts for event in stream.feed(part)] + stream.finish()


def place(event: Event) -> tuple:
    """What an event says, without when it was decided."""
    content = getattr(event, "label", getattr(event, "text", ""))
    return type(event), content, round(event.at_s, 6)


def settled(events: Iterable[Event]) -> list[tuple]:
    """The events except partial texts, which depend on the size of chunks."""
    return [place(event) for event in events if not isinstance(event, Partial)]


@pytest.mark.parametrize("name", NAMES)
def test_events_are_those_of_the_offline_scores(name: str) -> None:
    model, x = MODELS[name], SOUNDS[name]
    events = events_of(sk.stream(model), [x])
    assert events
    with torch.inference_mode():
        c = model.stream_layer(task_of(model).window_s)(Chunk.of(x[None, None]))
    listener = listener_of(model)
    end_s = len(x) / model.sample_rate
    state, offline = listener.step(listener.init(), c.x[0].T[c.valid[0]].numpy(), end_s)
    offline += listener.finish(state, end_s)
    assert settled(events) == settled(offline)


@pytest.mark.parametrize("name", [n for n in NAMES if MODELS[n].config.task == "frame"])
def test_a_detector_streams_what_detect_finds(name: str) -> None:
    model, x = MODELS[name], SOUNDS[name]
    events = events_of(sk.stream(model), [x])
    starts = [event.at_s for event in events if isinstance(event, SpeechStart)]
    ends = [event.at_s for event in events if isinstance(event, SpeechEnd)]
    found = sk.detect(model, x, model.sample_rate)
    assert starts == pytest.approx([s.start_s for s in found])
    assert ends == pytest.approx([s.end_s for s in found])


@settings(max_examples=8)
@given(
    longest_s=st.sampled_from([0.3, 0.55, 0.8, 1.3]),
    silence_ms=st.sampled_from([60, 200, 500]),
    cuts=st.lists(st.integers(0, 6 * 16000), max_size=40).map(sorted),
)
def test_the_longest_speech_is_split_alike_live_and_offline(
    longest_s: float, silence_ms: float, cuts: list[int]
) -> None:
    post = {"max_speech_s": longest_s, "min_silence_ms": silence_ms}
    model = MODELS["vad"].with_(postprocess=post)
    # speech without the pauses between the clips
    x = SOUNDS["vad"][: 6 * model.sample_rate]
    x = x[x.abs() > 1e-3]
    cuts = [min(cut, len(x)) for cut in cuts]
    parts = [x[a:b] for a, b in itertools.pairwise([0, *cuts, len(x)])]
    stream = sk.stream(model)
    events = [event for part in parts for event in stream.feed(part)] + stream.finish()
    starts = [event.at_s for event in events if isinstance(event, SpeechStart)]
    ends = [event.at_s for event in events if isinstance(event, SpeechEnd)]
    found = sk.detect(model, x, model.sample_rate)
    assert starts == pytest.approx([s.start_s for s in found])
    assert ends == pytest.approx([s.end_s for s in found])
    assert any(start in ends for start in starts)
    assert max(e - s for s, e in zip(starts, ends, strict=True)) <= longest_s + 1e-6


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3)
@given(data=st.data())
def test_any_chunking_and_a_restored_state_give_the_same_events(
    name: str, data: st.DataObject
) -> None:
    model, x = MODELS[name], SOUNDS[name][: 4 * MODELS[name].sample_rate]
    cuts = data.draw(st.lists(st.integers(0, len(x)), max_size=30).map(sorted))
    parts = [x[a:b] for a, b in itertools.pairwise([0, *cuts, len(x)])]
    expected = events_of(sk.stream(model), [x])
    assert events_of(sk.stream(model), parts) == expected
    first, second = sk.stream(model), sk.stream(model)
    half = len(parts) // 2
    begun = [event for part in parts[:half] for event in first.feed(part)]
    second.state = first.state
    assert begun + events_of(second, parts[half:]) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_returns_the_events_of_each_session(name: str) -> None:
    model, x = MODELS[name], SOUNDS[name]
    length = 3 * model.sample_rate
    rows = torch.stack([x[start : start + length] for start in (0, 5000, 9000)])
    batch = sk.StreamBatch(model, len(rows))
    together = [a + b for a, b in zip(batch.feed(rows), batch.finish(), strict=True)]
    alone = [events_of(sk.stream(model), [row]) for row in rows]
    assert [list(map(place, events)) for events in together] == [
        list(map(place, events)) for events in alone
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_interleaved_sessions_are_each_as_if_alone(name: str) -> None:
    model, x = MODELS[name], SOUNDS[name]
    length = model.sample_rate // 5
    starts = [(37 * i) % (len(x) - length) for i in range(1000)]
    sounds = [x[start : start + length] for start in starts]
    streams = [sk.stream(model) for _ in sounds]
    for part in range(0, length, 1000):
        for stream, sound in zip(streams, sounds, strict=True):
            stream.feed(sound[part : part + 1000])
    for stream, sound in zip(streams, sounds, strict=True):
        alone = sk.stream(model)
        alone.feed(sound)
        for one, other in zip(alone.state.values(), stream.state.values(), strict=True):
            assert torch.equal(one, other)
        assert stream.finish() == alone.finish()
