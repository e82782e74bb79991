"""Sessions return the events of the whole recording, for any chunks, resumed, mixed or batched."""

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import Tensor

import speechkit as sk
from speechkit.component import Component
from speechkit.data.samples import Samples
from speechkit.errors import AudioError, StreamError
from speechkit.implementation import use_impl
from speechkit.models import Model, Net
from speechkit.nn import Chunk
from speechkit.plugins import Registry
from speechkit.streaming import Stream
from speechkit.streaming.engines import choice
from speechkit.testing import assert_close, dyadic_

RATE = 16000


@dataclass(frozen=True)
class Counted:
    """The count of frames so far: the state of a `Recorder`."""

    frames: int = 0


class Recorder:
    """A listener whose events are the scores themselves."""

    def init(self) -> Counted:
        return Counted()

    def step(
        self, state: Counted, scores: np.ndarray, decided_s: float
    ) -> tuple[Counted, list[Tensor]]:
        return Counted(state.frames + len(scores)), list(torch.from_numpy(scores))

    def finish(self, state: Counted, decided_s: float) -> list[Tensor]:
        return []

    def restore(self, values: dict[str, int]) -> Counted:
        return Counted(**values)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "listener_of", lambda *_: Recorder())


@pytest.fixture(params=["running", "fixed"])
def model(request: pytest.FixtureRequest, nets: dict[str, Net]) -> Model:
    """A tiny model whose sessions run in torch, and one that has a native form."""
    frontend = f"log_mel:n_mels=16,normalize={request.param}"
    return sk.build(replace(nets["frame"], frontend=frontend)).eval()


def sound(samples: int, seed: int = 0, rows: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (samples,) if rows is None else (rows, samples)
    return torch.rand(shape, generator=generator) * 2 - 1


def fed(stream: Stream, x: Tensor, cuts: Iterator[int] | list[int]) -> list:
    edges = [0, *sorted(cuts), len(x)]
    parts = [x[start:end] for start, end in itertools.pairwise(edges)]
    return [event for part in parts for event in stream.feed(part)] + stream.finish()


def offline_scores(model: Model, x: Tensor, window_s: float | None = None) -> Tensor:
    with torch.inference_mode():
        c = model.stream_layer(window_s)(Chunk.of(x[None, None]))
    return c.x[0].T[c.valid[0]]


def test_scores_are_the_offline_ones(net: Net, recorded: None) -> None:
    model = sk.build(net).eval()
    x = sound(9_000)
    got = torch.stack(fed(sk.stream(model, vad=None), x, [1, 700, 701, 5000]))
    window_s = model.config.spotting.window_s if net.kind == "matchboxnet" else None
    assert_close(net.kind, offline_scores(model, x, window_s), got, 1e-4)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 6000), max_size=12))
def test_every_chunking_gives_the_same_bits(model: Model, recorded: None, cuts: list[int]) -> None:
    x = sound(6000)
    whole, cut = fed(sk.stream(model), x, []), fed(sk.stream(model), x, cuts)
    assert torch.equal(torch.stack(whole), torch.stack(cut))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_other_rates_are_resampled_along_the_way(
    nets: dict[str, Net], recorded: None, rate: int
) -> None:
    model = sk.build(nets["frame"]).eval()
    at_s = torch.arange(rate // 2) / rate
    x = 0.3 * torch.sin(2 * torch.pi * 440 * at_s)
    got = fed(sk.stream(model, rate), x, [1, 1000, 1001])
    assert torch.equal(torch.stack(got), torch.stack(fed(sk.stream(model, rate), x, [])))
    native = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE // 2) / RATE)
    expected = fed(sk.stream(model), native, [])
    assert abs(len(got) - len(expected)) <= 1
    inner = slice(8, 20)
    assert_close(f"{rate} Hz", torch.stack(expected)[inner], torch.stack(got)[inner], 2e-2)


def test_a_state_goes_through_a_file_and_on(net: Net, recorded: None, tmp_path: Path) -> None:
    model = sk.build(net).eval()
    x = sound(9_000)
    whole = fed(sk.stream(model), x, [])
    first = sk.stream(model)
    begun = first.feed(x[:4321])
    save_file(first.state, tmp_path / "state.safetensors")
    first.feed(x[:100])  # what the first stream does later must not matter
    second = sk.stream(model)
    second.state = load_file(tmp_path / "state.safetensors")
    rest = second.feed(x[4321:]) + second.finish()
    assert torch.equal(torch.stack(whole), torch.stack(begun + rest))


def test_interleaved_sessions_do_not_affect_each_other(model: Model, recorded: None) -> None:
    sounds = [sound(2000, seed) for seed in range(20)]
    alone = [fed(sk.stream(model), x, []) for x in sounds]
    streams = [sk.stream(model) for _ in sounds]
    together: list[list[Tensor]] = [[] for _ in sounds]
    for start in range(0, 2000, 300):
        for stream, x, events in zip(streams, sounds, together, strict=True):
            events += stream.feed(x[start : start + 300])
    for stream, events, expected in zip(streams, together, alone, strict=True):
        events += stream.finish()
        assert torch.equal(torch.stack(events), torch.stack(expected))


def test_a_batch_gives_the_same_bits_with_dyadic_weights(recorded: None) -> None:
    blocks = (
        sk.Block(channels=8, kernel=5, stride=2),
        sk.Block(channels=8, kernel=5, residual=True),
    )
    config = sk.MarbleNet(frame_level=True, blocks=blocks)
    model = sk.build(config).eval()
    for part in (model.stem, model.encoder, model.head):
        dyadic_(part)
    # integers in, so that every order of summation gives the same float
    model.frontend = _Frames()
    x = (sound(4000, rows=3) * 4).round().clamp(-1, 1)
    batch = sk.StreamBatch(model, 3)
    together = [a + b for a, b in zip(batch.feed(x), batch.finish(), strict=True)]
    for row, scores in zip(x, together, strict=True):
        alone = fed(sk.stream(model), row, [])
        assert torch.equal(torch.stack(alone), torch.stack(scores))


class _Frames(sk.nn.StreamLayer):
    """Every 160th sample, as 80 equal features."""

    stride = 160

    def channels_out(self, c_in: int) -> int:
        return 80

    def forward(self, c: Chunk) -> Chunk:
        x = c.masked[:, :, ::160].transpose(1, 2).expand(-1, -1, 80)
        return Chunk(x.transpose(1, 2), c.valid[:, ::160])


def test_a_batch_gives_the_same_scores_as_single_sessions(net: Net, recorded: None) -> None:
    model = sk.build(net).eval()
    x = sound(6000, rows=4)
    batch = sk.StreamBatch(model, 4)
    together = [a + b for a, b in zip(batch.feed(x), batch.finish(), strict=True)]
    for row, scores in zip(x, together, strict=True):
        alone = fed(sk.stream(model), row, [])
        assert_close(net.kind, torch.stack(alone), torch.stack(scores), 1e-4)


def test_a_row_that_is_reset_starts_anew(net: Net, recorded: None) -> None:
    model = sk.build(net).eval()
    batch = sk.StreamBatch(model, 2)
    block = batch.block_samples
    x, new = sound(4 * block, rows=2), sound(3 * block, seed=5)
    batch.feed(x)
    batch.reset(1)
    later = torch.stack([sound(3 * block, seed=6), new])
    scores = batch.feed(later)[1] + batch.finish()[1]
    alone = fed(sk.stream(model), new, [])
    assert_close(net.kind, torch.stack(alone), torch.stack(scores), 1e-4)


def test_a_row_is_reset_between_blocks_only(nets: dict[str, Net]) -> None:
    batch = sk.StreamBatch(sk.build(nets["frame"]).eval(), 2)
    batch.feed(sound(100, rows=2))
    with pytest.raises(StreamError, match="reset a row after a multiple of 320 samples"):
        batch.reset(0)


def test_latency_is_exact(net: Net, recorded: None) -> None:
    model = sk.build(net).eval()
    stream = sk.stream(model)
    x = sound(RATE)
    worst_s = 0.0
    frames = 0
    for end in range(1, len(x) + 1, 40):
        new = stream.feed(x[max(0, end - 40) : end])
        if new:
            worst_s = max(worst_s, end / RATE - frames * model.frame_s)
            frames += len(new)
    assert worst_s <= stream.latency_s + 40 / RATE
    assert worst_s > stream.latency_s - 40 / RATE


def test_integers_and_empty_chunks_are_welcome(model: Model, recorded: None) -> None:
    x = (sound(3000) * 0.5 * 32768).round().to(torch.int16)
    whole = fed(sk.stream(model), x.float() / 32768, [])
    assert torch.equal(torch.stack(whole), torch.stack(fed(sk.stream(model), x, [0, 0, 7])))
    assert sk.stream(model).feed(np.zeros(0, np.float32)) == []


@pytest.mark.parametrize("given", [Tensor.clone, Tensor.numpy])
def test_bad_samples_change_nothing(
    model: Model, recorded: None, given: Callable[[Tensor], Samples]
) -> None:
    stream, x = sk.stream(model), sound(3000)
    begun = stream.feed(given(x[:1000]))
    one = x[:500].clone()
    one[-1] = torch.nan
    with pytest.raises(AudioError, match="NaN"):
        stream.feed(given(one))
    with pytest.raises(AudioError, match="divide it by its full scale"):
        stream.feed(given(x * 32768))
    rest = stream.feed(given(x[1000:])) + stream.finish()
    assert torch.equal(torch.stack(begun + rest), torch.stack(fed(sk.stream(model), x, [])))


def test_bad_samples_of_one_session_change_none(model: Model, recorded: None) -> None:
    x = sound(3000, rows=3).numpy()
    batch, bad = sk.StreamBatch(model, 3), x[:, :777].copy()
    bad[1, 5] = -np.inf
    with pytest.raises(AudioError, match="infinity"):
        batch.feed(bad)
    expected = sk.StreamBatch(model, 3)
    for got, wanted in zip(batch.feed(x), expected.feed(x), strict=True):
        assert torch.equal(torch.stack(got), torch.stack(wanted))


def test_arrays_of_any_layout_are_welcome(model: Model, recorded: None) -> None:
    pcm = np.random.default_rng(0).integers(-1, 2, 3000).astype(np.int16)
    x = pcm.astype(np.float32) / 32768
    whole = torch.stack(fed(sk.stream(model), torch.from_numpy(x), []))
    locked, spread = x.copy(), np.repeat(x, 2)[::2]
    locked.flags.writeable = False
    backwards = [y[::-1].copy()[::-1] for y in (pcm, x, x.astype(np.float64))]
    for samples in (pcm, locked, spread, x.astype(np.float64), x.astype(">f4"), *backwards):
        stream = sk.stream(model)
        events = stream.feed(samples[:700]) + stream.feed(samples[700:]) + stream.finish()
        assert torch.equal(torch.stack(events), whole), samples.dtype


@pytest.mark.parametrize("given", [None, np.float32(0), np.zeros(()), torch.zeros(())])
def test_what_has_no_rows_is_one_line(model: Model, given: object) -> None:
    with pytest.raises(StreamError, match="as 2 rows of samples"):
        sk.StreamBatch(model, 2).feed(given)


def test_a_state_does_not_depend_on_how_the_sound_was_cut(model: Model, recorded: None) -> None:
    x, later = sound(20_077).numpy(), sound(3000, seed=1).numpy()
    whole = sk.stream(model)
    whole.feed(x)
    expected = whole.state
    rest = torch.stack(whole.feed(later))
    for step in (7, 512, 9999):
        stream, resumed = sk.stream(model), sk.stream(model)
        for start in range(0, len(x), step):
            stream.feed(x[start : start + step])
        state = stream.state
        assert state.keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_array_equal(state[name], tensor, name)
        resumed.state = state
        assert torch.equal(torch.stack(resumed.feed(later)), rest)


def test_memory_is_freed_with_the_stream(model: Model) -> None:
    stream = sk.stream(model)
    stream.feed(sound(1000))
    scheduler = weakref.ref(stream._scheduler)
    engine = weakref.ref(stream._scheduler.engine)
    gc.disable()
    try:
        del stream
        # at once, as no collector counts the bytes
        assert scheduler() is None
        assert engine() is None
    finally:
        gc.enable()


def test_a_finished_stream_takes_no_more(nets: dict[str, Net]) -> None:
    stream = sk.stream(sk.build(nets["ctc"]).eval())
    stream.finish()
    with pytest.raises(StreamError, match="make a new one"):
        stream.feed(sound(10))
    with pytest.raises(StreamError, match="make a new one"):
        stream.finish()


def test_a_state_of_another_model_is_refused(nets: dict[str, Net]) -> None:
    one, other = (sk.stream(sk.build(nets[kind]).eval()) for kind in ("frame", "ctc"))
    with pytest.raises(StreamError, match="of another model and vad; restore it into a stream"):
        one.state = other.state


def test_what_cannot_stream_is_named_with_the_way_out(nets: dict[str, Net]) -> None:
    whole = sk.build(replace(nets["ctc"], frontend="log_mel"))
    with pytest.raises(StreamError, match=r"PerFeature .* normalize='running'; or give window_s=8"):
        sk.stream(whole)
    far = sk.build(sk.QuartzNet(size="5x5", frontend="log_mel:normalize=running"))
    with pytest.raises(StreamError, match=r"quartznet answers 14\.\d+ s late.*lookahead.*window_s"):
        sk.stream(far)
    assert sk.stream(far, max_latency_s=20).latency_s == pytest.approx(14.74, abs=0.1)
    with pytest.raises(StreamError, match=r"44099.*resample"):
        sk.stream(sk.build(nets["frame"]), sample_rate=44099)
    for rate in (0, -16000):
        with pytest.raises(StreamError, match=f"sample_rate={rate}"):
            sk.stream(sk.build(nets["frame"]), sample_rate=rate)
        with pytest.raises(StreamError, match=f"sample_rate={rate}"):
            sk.stream(whole, sample_rate=rate, window_s=8)


def test_a_component_that_reads_the_utterance_is_named(
    nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sk.build(nets["frame"])
    find = Registry.find

    def changed(self: Registry, kind: str, name: str) -> object:
        entry = find(self, kind, name)
        whole = Component(name=name, factory="x:y", summary="", time="utterance")
        return replace(entry, component=whole) if kind == "norm" else entry

    monkeypatch.setattr(Registry, "find", changed)
    with pytest.raises(StreamError, match="norm batch reads the whole utterance; choose another"):
        sk.stream(model)


@pytest.mark.parametrize(("impl", "backend"), [("auto", "native"), ("torch", "torch")])
def test_the_latest_scores_are_of_a_frame_of_the_sound(
    nets: dict[str, Net], recorded: None, impl: str, backend: str
) -> None:
    model = sk.build(replace(nets["frame"], frontend="log_mel:n_mels=16,normalize=fixed")).eval()
    with use_impl(impl):
        stream, batch = sk.stream(model), sk.StreamBatch(model, 2)
        short = sk.stream(model)
    assert stream.backend.startswith(backend)
    short.feed(sound(7))
    short.finish()
    assert short.scores is None
    x = sound(7919)
    frames: list[Tensor] = []
    for part in x.split(80):
        frames += stream.feed(part)
        assert (stream.scores is None) == (not frames)
        assert not frames or np.array_equal(stream.scores, frames[-1])
    frames += stream.finish()
    np.testing.assert_array_equal(stream.scores, frames[-1])
    # a row that begins later has none before its first frame
    batch.feed(x[None, : 20 * batch.block_samples].expand(2, -1))
    before = batch.scores
    assert before is not None
    batch.reset(1)
    np.testing.assert_array_equal(batch.scores, [before[0], np.full_like(before[1], np.nan)])
    batch.feed(x[None, : batch.block_samples].expand(2, -1))
    after = batch.scores
    assert after is not None
    assert np.isfinite(after[0]).all()
    rows = batch.finish()
    np.testing.assert_array_equal(batch.scores, [row[-1] for row in rows])
    for row in range(2):
        batch.reset(row)
    assert batch.scores is None


def test_a_step_that_raised_has_no_scores(
    nets: dict[str, Net], recorded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sk.build(nets["frame"]).eval()
    batch, x = sk.StreamBatch(model, 2), sound(16000)
    batch.feed(x.expand(2, -1))
    assert batch.scores is not None
    engine = batch._scheduler.engine
    step = engine.step

    def failing(*args: Any) -> Any:
        step(*args)
        raise ArithmeticError("of a layer")

    monkeypatch.setattr(engine, "step", failing)
    with pytest.raises(ArithmeticError):
        batch.feed(x.flip(0).expand(2, -1))
    assert batch.scores is None
    batch.reset(0)
    assert batch.scores is None
